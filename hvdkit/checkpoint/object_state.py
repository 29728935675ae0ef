"""What objects keep (a callback its best value so far, a reducer its residuals): saved, and given back to them.

Each rank has its own in its part, in a group of tensors: ``callbacks/state`` holds JSON as bytes, a list with
``{"class": ..., "attributes": ...}`` for each object, in which ``{"array": n}`` is the tensor ``callbacks/n``. Of an
object that is ``Stateful`` the attributes are what its ``state_dict`` says, and ``"kinds"`` says of which kind each is.
What is common is in rank 0's part alone.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from hvdkit.checkpoint import plain_data
from hvdkit.errors import UsageError
from hvdkit.utils.log import get_logger
from hvdkit.utils.stateful import Entry, Kind, Stateful, class_name, combine, entries_of, leaves, no_join

Tensors = dict[str, np.ndarray]


def encode_entries(what: str, entries: dict[str, Entry], arrays: list[np.ndarray], rank: int) -> dict[str, dict]:
    """What is saved of a ``Stateful``: its encoded values and their kinds, those that a rank saves.

    Args:
        what: the object's class, for messages.
        entries: what its ``state_dict`` says.
        arrays: those of the values are appended.
        rank: this one.

    Raises:
        UsageError: a value that a checkpoint cannot hold; it is named.

    Example:

    >>> encode_entries("Recent", {"words": Entry({1, 2})}, [], 0)
    Traceback (most recent call last):
    hvdkit.errors.UsageError: Recent.state_dict() has a set in 'words', which a checkpoint cannot hold.
      What to do: return numbers, text, arrays, variables, and lists and dictionaries (with text as keys) of these: ...
    """
    saved = {name: entry for name, entry in entries.items() if rank == 0 or entry.kind != Kind.COMMON}
    encoded = {}
    for name, entry in saved.items():
        try:
            encoded[name] = plain_data.encode(entry.value, arrays)
        except plain_data.NotPlainError as error:
            raise UsageError(
                f"{what}.state_dict() has {error} in {name!r}, which a checkpoint cannot hold.",
                fix="return numbers, text, arrays, variables, and lists and dictionaries (with text as keys) of these: "
                "sorted(a_set), list(a_deque), list(a_dict.items()); load_state_dict() makes of them what they were.",
            ) from error
    return {"attributes": encoded, "kinds": {name: str(entry.kind) for name, entry in saved.items()}}


def pack(group: str, states: list[dict[str, Any]], arrays: list[np.ndarray]) -> Tensors:
    """The tensors of a group: of each object ``"class"``, ``"attributes"`` and perhaps ``"kinds"``."""
    if not states:
        return {}
    tensors = {_name(group, number): array for number, array in enumerate(arrays)}
    return {**tensors, _name(group): np.frombuffer(json.dumps(states).encode(), np.uint8)}


class SavedObjects:
    """What a group of a checkpoint holds for this rank.

    Args:
        group: the name before the tensors' names.
        parts: for each rank that saved, the group's tensors of its part, which may be read when they are needed.
        rank, size: of the ranks that resume.

    Attributes:
        of_another_rank: whether this rank is new, and gets what was rank 0's.
        count: how many objects of each name there are.
    """

    def __init__(self, group: str, parts: list[Mapping[str, np.ndarray]], rank: int, size: int):
        self._group = group
        self.of_another_rank = rank >= len(parts)
        home = 0 if self.of_another_rank else rank
        self._tensors = dict(parts[home])
        self._states = self._read(self._tensors)
        moved = size != len(parts)
        others = [] if not self._states else parts if moved else parts[:1]
        self._values = self._joined(others, {Kind.COMMON, Kind.MEAN, Kind.SUM} if moved else {Kind.COMMON}, rank)
        self.count = Counter(name for name, _ in {**self._states, **self._values})

    def _read(self, tensors: Mapping[str, np.ndarray]) -> dict[tuple[str, int], dict]:
        state = tensors.get(_name(self._group))
        return {} if state is None else _numbered((s.get("class", ""), s) for s in json.loads(bytes(state)))

    def _joined(
        self, parts: list[Mapping[str, np.ndarray]], wanted: set, rank: int
    ) -> dict[tuple[str, int], dict[str, Any]]:
        """What follows from all ranks' parts: what is common, and on another number of ranks means and sums."""
        joined: dict[tuple[str, int], dict[str, Any]] = {}
        values_by_entry: dict[tuple, list] = {}
        counts: Counter = Counter()  # on how many ranks an object is
        for tensors in parts:
            for key, state in self._read(tensors).items():
                counts[key] += 1
                for name, kind in state.get("kinds", {}).items():
                    if kind in wanted:
                        value = self._decode(state["attributes"][name], tensors)
                        values_by_entry.setdefault((key, name, kind), []).append(value)
        for (key, name, kind), values in values_by_entry.items():
            what = f"{name!r} of {key[0]}"
            if kind == Kind.MEAN and len(values) < counts[key]:
                raise no_join(kind, what, "only some ranks have it")
            joined.setdefault(key, {})[name] = combine(kind, values, rank, what)
        return joined

    def _decode(self, stored: Any, tensors: Mapping[str, np.ndarray], current: Any = None) -> Any:
        # Copies: the values are given more than once, and an object may change its own in place.
        return plain_data.decode(stored, lambda number: np.array(tensors[_name(self._group, number)]), current)

    def give(self, objects: Iterable[tuple[str, Any]]) -> None:
        """Give objects what was saved: the n-th of a name what the n-th of this name had.

        Raises:
            UsageError: a variable has another shape than the one that was saved; it is named.
        """
        for key, thing in _numbered(objects).items():
            state = self._states.get(key, {"attributes": {}, "kinds": {}} if key in self._values else None)
            if state is None:
                continue
            if "kinds" not in state:  # saved from its plain attributes, or by an earlier hvdkit
                for name, value in state["attributes"].items():
                    setattr(thing, name, self._decode(value, self._tensors, getattr(thing, name, None)))
            elif isinstance(thing, Stateful):
                own = {name: self._decode(value, self._tensors) for name, value in state["attributes"].items()}
                self._load(thing, {**own, **copy.deepcopy(self._values.get(key, {}))})
            else:
                get_logger().warning(
                    "%s was saved by its state_dict(), but it has no state_dict() now: it starts without state.", key[0]
                )

    @staticmethod
    def _load(thing: Stateful, values: dict[str, Any]) -> None:
        current = entries_of(thing)
        for name, value in values.items():
            if name in current:
                _assign(current[name].value, value, f"{class_name(thing)}.state_dict()[{name!r}]")
        thing.load_state_dict(values)


def check_group(group: str, tensors: Callable[[str], np.ndarray], names: Collection[str]) -> None:
    """Refuse a group that could not be given back.

    Args:
        group: the name before the tensors' names.
        tensors: reads one by its name.
        names: of the tensors that there are.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not what ``pack`` made.
    """
    if _name(group) not in names:
        return
    for state in json.loads(bytes(tensors(_name(group)))):
        if not isinstance(state["class"], str):
            raise TypeError("a class without a name")
        attributes = dict(state["attributes"])
        for value in attributes.values():
            plain_data.check_encoded(value, lambda number: _name(group, number) in names)
        kinds = dict(state.get("kinds", dict.fromkeys(attributes, Kind.PER_RANK)))
        if kinds.keys() != attributes.keys() or not all(kind in list(Kind) for kind in kinds.values()):
            raise ValueError("a kind that there is not")


def _name(group: str, number: int | None = None) -> str:
    return f"{group}/state" if number is None else f"{group}/{number:05d}"


def _numbered(named: Iterable[tuple[str, Any]]) -> dict[tuple[str, int], Any]:
    """Things by their names and how many of the name came before."""
    counts: Counter = Counter()
    numbered = {}
    for name, thing in named:
        numbered[name, counts[name]] = thing
        counts[name] += 1
    return numbered


def _assign(current: Any, value: Any, what: str) -> None:
    """Give the variables in a value those that were saved; if there is none yet, nothing is done."""
    if plain_data.is_variable(current):
        shape, dtype = tuple(current.shape), keras.backend.standardize_dtype(current.dtype)
        if np.shape(value) != shape or np.asarray(value).dtype.name != dtype:
            raise UsageError(
                f"The checkpoint does not fit: the variable in {what} is {dtype} {list(shape)}, and was "
                f"{np.asarray(value).dtype.name} {list(np.shape(value))}.",
                fix="make the object as it was when it was saved.",
            )
        current.assign(value)
    elif isinstance(current, dict) and isinstance(value, dict):
        for key in current.keys() & value.keys():
            _assign(current[key], value[key], what)
    elif isinstance(current, list | tuple) and any(map(plain_data.is_variable, leaves(current))):
        if not isinstance(value, list | tuple) or len(value) != len(current):
            raise UsageError(
                f"The checkpoint does not fit: {what} has {len(current)} values, and had another number.",
                fix="make the object as it was when it was saved.",
            )
        for part, its in zip(current, value, strict=True):
            _assign(part, its, what)
