"""What callbacks have counted and kept (the best value so far, the best weights, averages): saved, and given back.

It is their plain attributes: numbers, words, arrays, variables, and lists and dictionaries of these, without what they
were made with. In the manifest stands ``{"class": ..., "attributes": ...}`` for each callback, in which
``{"array": n}`` is the tensor ``callbacks/n`` of rank 0's part.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable
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


class _NotPlain(Exception):
    """An attribute is no data that could be saved."""


def with_state(callbacks: list) -> list:
    """Those of a ``fit``'s callbacks that are saved by default: those of Keras that count, and the user's own."""
    own = lambda c: not any(map(_is_of_a_library, type(c).__mro__))
    return [c for c in callbacks if isinstance(c, _OF_KERAS) or own(c)]


def _is_of_a_library(kind: type) -> bool:
    """Whether a class, or a base class, is a library's: but for the one that every callback has."""
    return kind is not keras.callbacks.Callback and kind.__module__.partition(".")[0] in ("keras", "hvdkit")


def take(callbacks: list) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The callbacks' state: JSON-like data, and tensors by name.

    >>> stopping = keras.callbacks.EarlyStopping("loss")
    >>> stopping.wait = 2
    >>> state, tensors = take([stopping])
    >>> state[0]["attributes"]["wait"], tensors
    (2, {})
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
            begin = len(arrays)
            try:
                attributes[name] = _plain(value, arrays)
            except _NotPlain:
                del arrays[begin:]
        states.append({"class": _class_of(callback), "attributes": attributes})
    return states, {f"callbacks/{i:05d}": array for i, array in enumerate(arrays)}


def give(callbacks: list, states: list[dict[str, Any]], read: Callable[[str], np.ndarray]) -> None:
    """Give callbacks the state that ``take`` found; the n-th of a class gets that of the n-th of this class.

    Args:
        callbacks: of this process.
        states: what ``take`` returned.
        read: a tensor by its name.
    """
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
            setattr(callback, name, _back(value, getattr(callback, name, None), read))
        counts[kind] += 1


def swapped_back(state: dict[str, Any]) -> dict[str, Any]:
    """A callback's state beside a training's own weights: it has not put averages in their place."""
    if state["class"].endswith(".SwapEMAWeights"):
        return {**state, "attributes": {**state["attributes"], "_ema_weights_in_model": False}}
    return state


def _class_of(callback: Any) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    in_json = isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53  # whole there
    if in_json or value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, keras.Variable | tf.Variable):
        return {"variable": _put(value.numpy(), arrays)}
    if isinstance(value, np.generic):
        return {"scalar": _put(value, arrays)}
    if isinstance(value, np.ndarray | float | tf.Tensor):
        return {"number" if isinstance(value, float) else "array": _put(value, arrays)}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_plain(v, arrays) for v in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _plain(v, arrays) for key, v in value.items()}}
    raise _NotPlain


def _put(value: Any, arrays: list[np.ndarray]) -> int:
    try:
        array = np.array(value)
    except Exception as error:
        raise _NotPlain from error
    if array.dtype.kind not in "biufV" or array.dtype.hasobject:
        raise _NotPlain
    arrays.append(array)
    return len(arrays) - 1


def _back(stored: Any, current: Any, read: Callable[[str], np.ndarray]) -> Any:
    """A value as it was; a variable that is there already is assigned."""
    if not isinstance(stored, dict):
        return stored
    ((kind, content),) = stored.items()
    if kind == "dict":
        known = current if isinstance(current, dict) else {}
        return {key: _back(v, known.get(key), read) for key, v in content.items()}
    if kind in ("list", "tuple"):
        known = current if isinstance(current, list | tuple) and len(current) == len(content) else [None] * len(content)
        made = [_back(v, k, read) for v, k in zip(content, known, strict=True)]
        return made if kind == "list" else tuple(made)
    array = read(f"callbacks/{content:05d}")
    if kind == "variable" and isinstance(current, keras.Variable | tf.Variable):
        current.assign(array)
        return current
    if kind == "number":
        return float(array)
    return array[()] if kind == "scalar" else array
