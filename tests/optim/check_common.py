"""What the checks on ranks have in common."""

from __future__ import annotations

import keras
import tensorflow as tf


class Adding(keras.optimizers.Optimizer):
    """Adds the gradient to the variable, and remembers it."""

    def __init__(self, learning_rate=0.1, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.seen = {}

    def update_step(self, gradient, variable, learning_rate):
        dense = tf.convert_to_tensor(gradient)
        variable.assign_add(dense)


def message(function) -> str:
    """The text of what a function raises, or of what it does not."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def reductions(optimizer) -> int:
    return int(optimizer._hvdkit.pipeline.reductions)
