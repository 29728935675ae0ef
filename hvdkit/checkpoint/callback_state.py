"""What callbacks have counted and kept (the best value so far, the best weights, averages): saved, and given back.

It is their plain attributes: numbers, words, arrays, variables, and lists and dictionaries of these, without what they
were made with. Each rank has its own, in its part: the tensor ``callbacks/state`` holds JSON as bytes, a list with
``{"class": ..., "attributes": ...}`` for each callback, in which ``{"array": n}`` is the tensor ``callbacks/n``.
"""

from __future__ import annotations

import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Keras' callbacks with a state that belongs to the training. The others hold files, threads and what is on a screen.
_OF_KERAS = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.SwapEMAWeights,
)
_NOT_STATE = ("model", "_model", "params")
# From so many numbers on, a list of them is kept as one array.
_LONG = 100
# More things in one attribute are data, and not the state of a callback.
_MOST = 10_000
STATE = "callbacks/state"


class _NotPlain(Exception):
    """An attribute is no data that could be saved."""


def with_state(callbacks: list) -> list:
    """Those of a ``fit``'s callbacks that are saved by default: those of Keras that count, and the user's own."""
    own = lambda c: not any(map(_is_of_a_library, type(c).__mro__))
    return [c for c in callbacks if isinstance(c, _OF_KERAS) or own(c)]


def _is_of_a_library(kind: type) -> bool:
    """Whether a class, or a base class, is a library's: but for the one that every callback has."""
    return kind is not keras.callbacks.Callback and kind.__module__.partition(".")[0] in ("keras", "hvdkit")


def take(callbacks: list, *, own_weights: bool = False) -> dict[str, np.ndarray]:
    """The callbacks' state, as tensors by name.

    Args:
        callbacks: of this process.
        own_weights: the training's own weights are saved beside it, also where ``SwapEMAWeights`` has put averages in
            their place.

    >>> stopping, other = keras.callbacks.EarlyStopping("loss"), keras.callbacks.EarlyStopping("loss")
    >>> stopping.wait = 2
    >>> give([other], take([stopping]))
    >>> other.wait
    2
    """
    arrays: list[np.ndarray] = []
    states = []
    for callback in callbacks:
        made_with = inspect.signature(type(callback).__init__).parameters
        attributes = {}
        for name, value in vars(callback).items():
            # EarlyStopping turns the sign of its min_delta round when it begins, each time.
            if name in made_with or name in _NOT_STATE or name.startswith("_hvdkit"):
                continue
            swapped = name == "_ema_weights_in_model" and isinstance(callback, keras.callbacks.SwapEMAWeights)
            begin = len(arrays)
            try:
                attributes[name] = False if own_weights and swapped else _plain(value, arrays)
            except (_NotPlain, RecursionError):
                del arrays[begin:]
        states.append({"class": _class_of(callback), "attributes": attributes})
    found = {_name(i): array for i, array in enumerate(arrays)}
    return {**found, STATE: np.frombuffer(json.dumps(states).encode(), np.uint8)} if states else {}


def give(callbacks: list, tensors: dict[str, np.ndarray], *, of_another_rank: bool = False) -> None:
    """Give callbacks the state that ``take`` found; the n-th of a class gets that of the n-th of this class.

    Args:
        callbacks: of this process.
        tensors: what ``take`` returned.
        of_another_rank: only what is alike on all ranks: that of Keras' own.
    """
    if STATE not in tensors:
        return
    states = json.loads(bytes(tensors[STATE]))
    if of_another_rank:
        callbacks = [c for c in callbacks if isinstance(c, _OF_KERAS)]
    stored: dict[tuple[str, int], dict] = {}
    counts: Counter = Counter()
    for state in states:
        kind = state.get("class", "")
        stored[kind, counts[kind]] = state.get("attributes", {})
        counts[kind] += 1
    counts.clear()
    for callback in callbacks:
        kind = _class_of(callback)
        for name, value in stored.get((kind, counts[kind]), {}).items():
            setattr(callback, name, _back(value, getattr(callback, name, None), tensors))
        counts[kind] += 1


def check(state: np.ndarray, names: Collection[str]) -> None:
    """Refuse what ``give`` could not take.

    Args:
        state: the tensor that says what the state is.
        names: of the tensors that there are.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not what ``take`` made.
    """
    states = json.loads(bytes(state))
    for one in states:
        if not isinstance(one["class"], str):
            raise TypeError("a class without a name")
        for value in dict(one["attributes"]).values():
            _check_kept(value, names)


def _check_kept(stored: Any, names: Collection[str]) -> None:
    if not isinstance(stored, dict):
        return
    ((kind, content),) = stored.items()
    if kind in ("list", "tuple", "dict"):
        for value in content if kind != "dict" else dict(content).values():
            _check_kept(value, names)
    elif _name(content) not in names or kind not in _MADE:
        raise ValueError(f"a {kind} that is not there")


def _name(number: int) -> str:
    return f"callbacks/{number:05d}"


def _class_of(callback: Any) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    in_json = isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53  # whole there
    if in_json or value is None or isinstance(value, bool | str):
        return value
    kind = next((kind for kind, fits in _KINDS.items() if fits(value)), None)
    if kind is None or (kind in ("list", "tuple", "dict") and len(value) > _MOST):
        raise _NotPlain
    if kind == "dict":
        return {kind: {key: _plain(v, arrays) for key, v in value.items()}}
    if kind in ("list", "tuple"):
        return {kind: [_plain(v, arrays) for v in value]}
    return {kind: _put(value.numpy() if kind == "variable" else value, arrays)}


def _are_numbers(value: Any) -> bool:
    """Whether all are Python's whole numbers, all are its other numbers, or all are of one kind of NumPy's."""
    kinds = {type(v) for v in value} if isinstance(value, list) else set()
    return len(kinds) == 1 and issubclass(next(iter(kinds)), int | float | np.number)


# What an attribute is kept as: the first that fits.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "variable": lambda v: isinstance(v, keras.Variable | tf.Variable),
    "scalar": lambda v: isinstance(v, np.generic),
    "number": lambda v: isinstance(v, float),
    "array": lambda v: isinstance(v, np.ndarray | tf.Tensor),
    "numbers": lambda v: isinstance(v, list) and len(v) > _LONG and _are_numbers(v),
    "list": lambda v: isinstance(v, list),
    "tuple": lambda v: isinstance(v, tuple),
    "dict": lambda v: isinstance(v, dict) and all(isinstance(key, str) for key in v),
}
# And what is made of the array that it was kept in; of numbers Python's are there as the widest of NumPy's.
_MADE: dict[str, Callable[[np.ndarray], Any]] = {
    "variable": lambda array: array,
    "scalar": lambda array: array[()],
    "number": float,
    "array": lambda array: array,
    "numbers": lambda array: array.tolist() if array.dtype in (np.int64, np.float64) else list(array),
}


def _put(value: Any, arrays: list[np.ndarray]) -> int:
    try:
        array = np.array(value)
    except Exception as error:
        raise _NotPlain from error
    if array.dtype.kind not in "biufV" or array.dtype.hasobject:
        raise _NotPlain
    arrays.append(array)
    return len(arrays) - 1


def _back(stored: Any, current: Any, tensors: dict[str, np.ndarray]) -> Any:
    """A value as it was; a variable that is there already is assigned."""
    if not isinstance(stored, dict):
        return stored
    ((kind, content),) = stored.items()
    if kind in ("dict", "list", "tuple"):
        return _container(kind, content, current, tensors)
    array = tensors[_name(content)]
    if kind == "variable" and isinstance(current, keras.Variable | tf.Variable):
        current.assign(array)
        return current
    return _MADE[kind](array)


def _container(kind: str, content: Any, current: Any, tensors: dict[str, np.ndarray]) -> Any:
    """A dict, list or tuple as it was; where there is one of a kind of its own, such as a Counter, it stays of it."""
    if kind == "dict":
        known = current if isinstance(current, dict) else {}
        made = {key: _back(v, known.get(key), tensors) for key, v in content.items()}
        if type(known) is dict:
            return made
        known.clear()
        known.update(made)
        return known
    known = current if isinstance(current, list | tuple) and len(current) == len(content) else [None] * len(content)
    made = [_back(v, k, tensors) for v, k in zip(content, known, strict=True)]
    if kind == "list":
        return made
    return type(current)._make(made) if known is current and hasattr(current, "_make") else tuple(made)
