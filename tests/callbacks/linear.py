"""A model so small that its training can be written down."""

from __future__ import annotations

import keras
import numpy as np


class Rates(keras.callbacks.Callback):
    """The rate before each step, as the step sees it."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


def linear(optimizer, **compiled):
    """One kernel of three weights, no bias."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse", **compiled)
    return model


def xy(n=24, seed=0):
    """Rows, and what the kernel (1, 1, 1) makes of them."""
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x, x.sum(1, keepdims=True)
