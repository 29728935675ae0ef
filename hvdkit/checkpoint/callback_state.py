"""Which callbacks have a state that is saved, and what of those that do not say it themselves: their plain attributes,
without what they were made with."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from hvdkit.checkpoint import plain_data
from hvdkit.checkpoint.object_state import SavedObjects, Tensors, encode_entries, pack
from hvdkit.keras_internals.attributes import is_own
from hvdkit.keras_internals.models import AVERAGES_ARE_IN_PLACE, GIVEN_TO_CALLBACKS
from hvdkit.utils.stateful import Stateful, entries_of

GROUP = "callbacks"
# More things in one list or dictionary of a plain attribute are data, and no state.
_MOST = 10_000
# Keras' callbacks with a state that belongs to the training. The others hold files, threads and what is on a screen.
_OF_KERAS = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.SwapEMAWeights,
)


def stateful_callbacks(callbacks: list) -> list:
    """Those of a ``fit``'s callbacks that are saved by default: those that are ``Stateful``, those of Keras that count,
    and the user's own."""
    own = lambda c: not any(map(_is_of_a_library, type(c).__mro__))
    return [c for c in callbacks if isinstance(c, (Stateful, *_OF_KERAS)) or own(c)]


def _is_of_a_library(kind: type) -> bool:
    """Whether a class, or a base class, is a library's: but for the one that every callback has."""
    return kind is not keras.callbacks.Callback and kind.__module__.partition(".")[0] in ("keras", "hvdkit")


def collect_states(callbacks: list, *, own_weights: bool = False, rank: int = 0) -> Tensors:
    """The callbacks' state, as tensors by name.

    Args:
        callbacks: of this process.
        own_weights: the training's own weights are saved beside it, also where ``SwapEMAWeights`` has put averages in
            their place.
        rank: this one; what is common only rank 0 saves.

    Raises:
        UsageError: a ``state_dict`` with something that a checkpoint cannot hold.

    >>> stopping, other = keras.callbacks.EarlyStopping("loss"), keras.callbacks.EarlyStopping("loss")
    >>> stopping.wait = 2
    >>> saved = collect_states([stopping])
    >>> restore_states([other], SavedObjects("callbacks", [saved], rank=0, size=1))
    >>> other.wait
    2
    """
    arrays: list[np.ndarray] = []
    states = []
    for callback in callbacks:
        if isinstance(callback, Stateful):
            state = encode_entries(type(callback).__name__, entries_of(callback), arrays, rank)
        else:
            state = {"attributes": _attributes(callback, arrays, own_weights)}
        states.append({"class": _class_of(callback), **state})
    return pack(GROUP, states, arrays)


def _attributes(callback: Any, arrays: list[np.ndarray], own_weights: bool) -> dict[str, Any]:
    made_with = inspect.signature(type(callback).__init__).parameters
    attributes = {}
    for name, value in vars(callback).items():
        # EarlyStopping turns the sign of its min_delta round when it begins, each time.
        if name in made_with or name in GIVEN_TO_CALLBACKS or is_own(name):
            continue
        swapped = name == AVERAGES_ARE_IN_PLACE and isinstance(callback, keras.callbacks.SwapEMAWeights)
        begin = len(arrays)
        try:
            attributes[name] = False if own_weights and swapped else plain_data.encode(value, arrays, _MOST)
        except plain_data.NotPlainError:  # a file, a thread, a model: no state
            del arrays[begin:]
    return attributes


def restore_states(callbacks: list, saved: SavedObjects) -> None:
    """Give callbacks the state that ``collect_states`` returned; from another rank only what is equal on all ranks."""
    if saved.of_another_rank:
        callbacks = [c for c in callbacks if isinstance(c, (Stateful, *_OF_KERAS))]
    saved.give((_class_of(callback), callback) for callback in callbacks)


def _class_of(callback: Any) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"
