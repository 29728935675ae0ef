"""The protocol of objects whose state a checkpoint keeps."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hvdkit.errors import UsageError


class Kind(enum.StrEnum):
    """What becomes of a value that each rank has, if the training resumes on another number of ranks."""

    COMMON = "common"
    """The value is the same on all ranks: rank 0's value is saved, and all ranks get it."""
    PER_RANK = "per_rank"
    """Each rank gets its own value back; additional ranks get rank 0's value."""
    MEAN = "mean"
    """All ranks get the mean over the saved ranks, which need values of one form."""
    SUM = "sum"
    """Rank 0 gets the sum over the saved ranks, and the other ranks get zero. In a dictionary, a key that a rank does
    not have counts as zero there."""


@dataclass(frozen=True)
class Entry:
    """A value of a ``state_dict``, and how it is restored on a different number of ranks.

    Args:
        value: a variable, an array, a number, text, None, or lists, tuples and dictionaries of these.
        kind: ``"common"``, ``"per_rank"``, ``"mean"`` or ``"sum"``: see ``Stateful``.

    Raises:
        UsageError: the kind is unknown.

    Example:

    >>> Entry([1, 2], "common").kind
    <Kind.COMMON: 'common'>
    """

    value: Any
    kind: str = Kind.PER_RANK

    def __post_init__(self):
        known = [kind.value for kind in Kind]
        if self.kind not in known:
            raise UsageError(f"`kind` must be one of {', '.join(known)}. Received: kind={self.kind!r}.")
        object.__setattr__(self, "kind", Kind(self.kind))


@runtime_checkable
class Stateful(Protocol):
    """An object whose state is saved and restored with a training: a callback, a reducer, a schedule.

    No base class is needed: every object with these two methods is ``Stateful``. hvdkit finds it among the callbacks of
    ``fit`` beside ``CheckpointCallback``, as the ``compression=`` of an optimizer, and as an optimizer's learning rate
    schedule.

    Example:

    >>> import collections
    >>> class Recent:
    ...     def __init__(self):
    ...         self.losses, self.words = collections.deque(maxlen=3), set()
    ...
    ...     def state_dict(self):
    ...         return {"losses": list(self.losses), "words": Entry(sorted(self.words), "common")}
    ...
    ...     def load_state_dict(self, state):
    ...         self.losses, self.words = collections.deque(state["losses"], maxlen=3), set(state["words"])
    >>> isinstance(Recent(), Stateful)
    True
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the values to save, by name: variables, arrays and JSON-like data.

        A value is saved for each rank, unless an ``Entry`` says that it is common, or that its mean or sum is used.

        It is also called before ``load_state_dict``, to find the variables that are there: on an object that was just
        made. So it must not need what only the training makes; return None where there is no value yet.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the saved values, before the training resumes.

        It may be called more than once, because callbacks may reset themselves when training begins. For a schedule,
        ``state["iterations"]`` is the number of steps of its optimizer.

        Args:
            state: the values by name, with arrays instead of variables. A variable that ``state_dict`` names already
                has its value; a variable that is only created in the first step can be created from the array.
        """


class StatefulOf:
    """Says and takes the state of another object, in whose name it speaks.

    Args:
        of: that object.
    """

    def __init__(self, of: Stateful):
        self.of = of

    def state_dict(self) -> dict[str, Any]:
        return self.of.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.of.load_state_dict(state)


def class_name(thing: Stateful) -> str:
    """The name of an object's class, for messages: one that the user knows."""
    return type(thing.of if isinstance(thing, StatefulOf) else thing).__name__


def entries_of(thing: Stateful) -> dict[str, Entry]:
    """What an object's ``state_dict`` says, each value with its kind.

    Raises:
        UsageError: it is no dictionary with text as keys.
    """
    state = thing.state_dict()
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UsageError(
            f"{class_name(thing)}.state_dict() must return a dictionary with text as keys. Received: {state!r}."
        )
    return {name: value if isinstance(value, Entry) else Entry(value) for name, value in state.items()}


def leaves(value: Any) -> Iterable[Any]:
    """What is in a value's lists, tuples and dictionaries.

    >>> list(leaves([1, {"a": (2, 3)}]))
    [1, 2, 3]
    """
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    else:
        yield value


def combine(kind: str, values: list, rank: int, what: str) -> Any:
    """What a rank gets of a value that is common, or of which the mean or the sum over the ranks counts.

    Args:
        kind: of the value.
        values: one for each rank that saved it.
        rank: the one that gets it.
        what: the value, for messages.

    Raises:
        UsageError: the values have no mean or no sum.

    >>> combine("mean", [np.float32([1.0]), np.float32([3.0])], 0, "m"), combine("sum", [np.float32([1.0])] * 2, 1, "s")
    (array([2.], dtype=float32), array([0.], dtype=float32))
    >>> combine("sum", [{"n": 2}, {"n": 3, "m": 1}], 0, "the counts")
    {'n': 5, 'm': 1}
    """
    first = values[0]
    if kind == Kind.COMMON:
        return first
    if all(value is None for value in values):
        return None
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)  # in a sum, what a rank does not have is zero
        partial = [key for key in keys if any(key not in value for value in values)]
        if kind == Kind.MEAN and partial:
            raise no_join(kind, what, f"only some ranks have {partial[0]!r}")
        having = {key: [value[key] for value in values if key in value] for key in keys}
        return {key: combine(kind, some, rank, f"{what}[{key!r}]") for key, some in having.items()}
    if all(isinstance(value, list | tuple) for value in values):
        lengths = sorted({len(value) for value in values})
        if len(lengths) > 1:
            raise no_join(kind, what, f"its length is {lengths[0]} on one rank and {lengths[-1]} on another")
        parts = enumerate(zip(*values, strict=True))
        return type(first)(combine(kind, list(part), rank, f"{what}[{i}]") for i, part in parts)
    if all(type(value) is int for value in values):  # of any size
        total = sum(values) if kind == Kind.MEAN or rank == 0 else 0
        return total if kind == Kind.SUM else total // len(values)
    return _join_arrays(kind, values, rank, what)


def _join_arrays(kind: str, values: list, rank: int, what: str) -> Any:
    arrays = [value if isinstance(value, dict | list | tuple) else np.asarray(value) for value in values]
    kinds = ["" if isinstance(array, dict | list | tuple) else array.dtype.kind for array in arrays]
    if any(not kind or kind in "OUS" for kind in kinds):
        types = sorted({type(value).__name__ for value in values})
        raise no_join(kind, what, f"it is {' on one rank and '.join(types)}{' on another' if len(types) > 1 else ''}")
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise no_join(kind, what, f"its shape is {[*shapes[0]]} on one rank and {[*shapes[-1]]} on another")
    first, dtype, together = values[0], np.result_type(*arrays), np.stack(arrays)
    if kind == Kind.SUM and dtype.kind in "iu":
        joined = np.sum(together, axis=0, dtype=dtype)
    else:
        joined = (np.mean if kind == Kind.MEAN else np.sum)(together.astype(np.float64), axis=0).astype(dtype)
    joined = joined if kind == Kind.MEAN or rank == 0 else np.zeros_like(joined)
    return joined if isinstance(first, np.ndarray) else joined[()] if isinstance(first, np.generic) else joined.item()


def no_join(kind: str, what: str, why: str) -> UsageError:
    """The error where the ranks that saved a value have no mean or sum of it."""
    return UsageError(
        f"The ranks that saved the checkpoint have no {kind} of {what}: {why}.",
        fix="resume on as many ranks as saved it. For later checkpoints, save a value of one form on all ranks, or "
        'make its entry "per_rank".',
    )
