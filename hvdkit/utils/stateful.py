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
    """All ranks get the mean over the saved ranks."""
    SUM = "sum"
    """Rank 0 gets the sum over the saved ranks, and the other ranks get zero."""


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
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the saved values, before the training resumes.

        It may be called more than once, because callbacks may reset themselves when training begins. For a schedule,
        ``state["iterations"]`` is the number of steps of its optimizer.

        Args:
            state: the values by name, with arrays instead of variables. A variable that ``state_dict`` names already
                has its value; a variable that is only created in the first step can be created from the array.
        """


def entries_of(thing: Stateful) -> dict[str, Entry]:
    """What an object's ``state_dict`` says, each value with its kind.

    Raises:
        UsageError: it is no dictionary with text as keys.
    """
    state = thing.state_dict()
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UsageError(
            f"{type(thing).__name__}.state_dict() must return a dictionary with text as keys. Received: {state!r}."
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


def combine(kind: str, values: list, rank: int) -> Any:
    """What a rank gets of a value that is common, or of which the mean or the sum over the ranks counts.

    Raises:
        UsageError: a mean or a sum of what are no numbers.

    >>> combine("mean", [np.float32([1.0]), np.float32([3.0])], 0), combine("sum", [np.float32([1.0])] * 2, 1)
    (array([2.], dtype=float32), array([0.], dtype=float32))
    >>> combine("sum", [{"n": 2}, {"n": 3}], 0)
    {'n': 5}
    """
    first = values[0]
    if kind == Kind.COMMON:
        return first
    if isinstance(first, dict):
        return {key: combine(kind, [value[key] for value in values], rank) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(combine(kind, list(parts), rank) for parts in zip(*values, strict=True))
    dtype = np.asarray(first).dtype
    if dtype.kind in "OUS":
        raise UsageError(f"A checkpoint has {first!r}, which has no {kind} over the ranks.")
    join = np.mean if kind == Kind.MEAN else np.sum
    joined = join(np.stack(values).astype(np.float64), axis=0).astype(dtype)
    joined = joined if kind == Kind.MEAN or rank == 0 else np.zeros_like(joined)
    return joined if isinstance(first, np.ndarray) else joined[()] if isinstance(first, np.generic) else joined.item()
