"""The private methods of Keras that the trainer wraps, by names without an underscore."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.keras_internals.data import EpochIterator

# ``fit`` calls it when the first batch's shapes are known, before the train function is made.
BUILD_FROM_DATA = (keras.Model, "_maybe_symbolic_build")
# How many steps an epoch has, and which.
STEPS_OF_EPOCH = (EpochIterator, "_enumerate_iterator")


def is_called_by_fit(arguments: dict[str, Any]) -> bool:
    """Whether ``evaluate`` was called by ``fit`` for its validation data.

    Args:
        arguments: of ``evaluate``, by name. ``fit`` gives it a private keyword.
    """
    return "_use_cached_eval_dataset" in (arguments.get("kwargs") or {})
