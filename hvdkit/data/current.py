"""Which data a model is being trained on: for ``fit``, which must tell them the epoch, and for checkpoints."""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from hvdkit.comm import world
from hvdkit.trainer import fit_callbacks
from hvdkit.utils import numbers

_data: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_feeding: Callable[[Any, dict[str, Any]], AbstractContextManager] | None = None


def feed_by(feeding: Callable[[Any, dict[str, Any]], AbstractContextManager]) -> None:
    """Let ``watch_fit`` put this around each ``fit`` and ``evaluate``: given the model and the call's arguments."""
    global _feeding
    _feeding = feeding


@functools.cache
def watch_fit() -> None:
    """Let ``fit`` and ``evaluate`` take sharded data in a world of one, where nothing else of Keras is wrapped.

    Called when a distributed optimizer is made: in ``model.fit(hvd.data.shard(x))`` Python looks up ``fit`` first.
    """
    import keras

    for name in ("fit", "evaluate"):
        setattr(keras.Model, name, _watched(getattr(keras.Model, name)))


def _watched(original: Callable) -> Callable:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def watched(self, *args, **kwargs):
        if not world.is_initialized() or world.size() > 1:  # guard.py sees to it
            return original(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        if bound.arguments.get("kwargs"):  # evaluate, called by fit
            return original(self, *args, **kwargs)
        numbers.of_fit(bound.arguments)
        feeding = contextlib.nullcontext() if _feeding is None else _feeding(self, bound.arguments)
        with fit_callbacks.borrowed(bound.arguments):
            if "validation_data" in bound.arguments:  # fit
                fit_callbacks.lead(self, bound.arguments)
            with feeding:
                return original(*bound.args, **bound.kwargs)

    return watched


class Resumable(Protocol):
    """Data that knows its place and can be set to another."""

    num_batches: int | None
    """The steps of the running epoch in this process; None where nobody knows."""

    def place(self, steps: int) -> dict[str, Any]:
        """Where the data are after so many steps of the running epoch in this process, as JSON-like data.

        ``"over"`` in it is whether that is the end of the epoch.
        """

    def seek(self, epoch: int, place: dict[str, Any]) -> None:
        """Let an epoch, when it comes, begin at a place.

        Raises:
            UsageError: the data are not those of the place.
        """


def note(model: Any, data: Resumable | None) -> None:
    """Remember what a model is trained on; None forgets it."""
    if data is None:
        _data.pop(model, None)
    else:
        _data[model] = data


def of(model: Any) -> Resumable | None:
    """What a model is being trained on, where it is resumable."""
    return _data.get(model)
