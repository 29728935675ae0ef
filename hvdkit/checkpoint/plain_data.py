"""Values of a program as JSON and arrays, and back: numbers, text, arrays, variables, lists and dictionaries of these.

In the JSON ``{"array": n}`` is the n-th array, and ``{"list": [...]}``, ``{"tuple": [...]}``, ``{"dict": {...}}`` are
those. Numbers, text, true, false and null are themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# From so many numbers on, a list of them is kept as one array.
_LONG = 100
# So large a whole number is text of no more digits than Python reads.
_MOST_BITS = 2**13


class NotPlainError(Exception):
    """A value that this cannot hold."""


def encode(value: Any, arrays: list[np.ndarray], most: int | None = None) -> Any:
    """A value as JSON; its arrays, and those of variables, are appended.

    Args:
        value: to be encoded.
        arrays: what JSON does not hold.
        most: how many things one list, tuple or dictionary may have; None is any number.

    Raises:
        NotPlainError: something in it is none of those.

    Example:

    >>> arrays = []
    >>> encode({"best": [1, np.ones(2)]}, arrays), arrays
    ({'dict': {'best': {'list': [1, {'array': 0}]}}}, [array([1., 1.])])
    """
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise NotPlainError(f"a whole number of {value.bit_length()} bits")
    if value is None or isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    kind = next((kind for kind, fits in _KINDS.items() if fits(value)), None)
    if kind is None:
        raise NotPlainError(f"a {type(value).__name__}")
    if most is not None and kind in ("list", "tuple", "dict") and len(value) > most:
        raise NotPlainError(f"a {type(value).__name__} of more than {most} things")
    try:
        if kind == "dict":
            return {kind: {key: encode(v, arrays, most) for key, v in value.items()}}
        if kind in ("list", "tuple"):
            return {kind: [encode(v, arrays, most) for v in value]}
    except RecursionError as error:
        raise NotPlainError(f"a {kind} that holds itself") from error
    return {kind: _put(value.numpy() if kind == "variable" else value, arrays)}


def decode(stored: Any, array: Callable[[int], np.ndarray], current: Any = None) -> Any:
    """A value as it was; a variable that is there already is assigned.

    Args:
        stored: what ``encode`` made.
        array: the n-th array.
        current: the value that is there now.
    """
    if not isinstance(stored, dict):
        return stored
    ((kind, content),) = stored.items()
    if kind in ("dict", "list", "tuple"):
        return _container(kind, content, array, current)
    value = array(content)
    if kind == "variable" and is_variable(current):
        current.assign(value)
        return current
    return _MADE[kind](value)


def check_encoded(stored: Any, has: Callable[[int], bool]) -> None:
    """Refuse what ``decode`` could not take.

    Raises:
        ValueError, TypeError, AttributeError: it is not what ``encode`` made.
    """
    if not isinstance(stored, dict):
        return
    ((kind, content),) = stored.items()
    if kind in ("list", "tuple", "dict"):
        for value in content if kind != "dict" else dict(content).values():
            check_encoded(value, has)
    elif kind not in _MADE or type(content) is not int or not has(content):
        raise ValueError(f"a {kind} that is not there")


def is_variable(value: Any) -> bool:
    """Whether it is a variable of Keras or TensorFlow."""
    return isinstance(value, keras.Variable | tf.Variable)


def _are_numbers(value: Any) -> bool:
    """Whether all are Python's whole numbers, all are its other numbers, or all are of one kind of NumPy's; and an
    array holds them."""
    kinds: Collection[type] = {type(v) for v in value} if isinstance(value, list) else set()
    kind = next(iter(kinds)) if len(kinds) == 1 else object
    return issubclass(kind, float | np.number) or (kind is int and -(2**63) <= min(value) <= max(value) < 2**63)


# What a value is kept as: the first that fits.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "variable": is_variable,
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
        raise NotPlainError(f"a {type(value).__name__} that is no array") from error
    if array.dtype.kind not in "biufV" or array.dtype.hasobject:
        raise NotPlainError(f"an array of {array.dtype}")
    arrays.append(array)
    return len(arrays) - 1


def _container(kind: str, content: Any, array: Callable[[int], np.ndarray], current: Any) -> Any:
    """A dict, list or tuple as it was; where there is one of a kind of its own, such as a Counter, it stays of it."""
    if kind == "dict":
        known = current if isinstance(current, dict) else {}
        made = {key: decode(v, array, known.get(key)) for key, v in content.items()}
        if type(known) is dict:
            return made
        known.clear()
        known.update(made)
        return known
    known = current if isinstance(current, list | tuple) and len(current) == len(content) else [None] * len(content)
    made = [decode(v, array, k) for v, k in zip(content, known, strict=True)]
    if kind == "list":
        return made
    return type(current)._make(made) if known is current and hasattr(current, "_make") else tuple(made)
