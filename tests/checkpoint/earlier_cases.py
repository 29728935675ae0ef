"""Trainings whose checkpoints an earlier hvdkit has written: ``earlier/`` holds one of each, of two ranks.

They were written with ``mpirun -np 2 python -m tests.checkpoint.earlier_cases tests/checkpoint/earlier`` and stay as
they are: what an earlier version wrote is read by all later ones.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import keras
import numpy as np

import hvdkit as hvd

EARLIER = Path(__file__).parent / "earlier"


def synchronous(steps: int = 10) -> keras.Model:
    """Slots, accumulated gradients, seeds, batch statistics, metrics and a schedule."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.2, seed=1)]
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(1)])
    rate = hvd.schedules.large_batch(0.01, 4, 4, steps, 1, epochs=4, accumulation=2)
    optimizer = keras.optimizers.Adam(rate, gradient_accumulation_steps=2)
    model.compile(hvd.DistributedOptimizer(optimizer), "mse", metrics=["mae"])
    return model


def local_sgd() -> keras.Model:
    """Weights, slots and counts that differ between the ranks."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(hvd.optim.LocalSGD(inner, sync_period=5, outer_momentum=0.5), "mse")
    return model


class SaveAt(keras.callbacks.Callback):
    """Saves before the fourth step, and ends the training there."""

    def __init__(self, directory: str):
        super().__init__()
        self.directory = directory

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            hvd.checkpoint.save(self.model, self.directory, step=3)
            self.model.stop_training = True


class Stop(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            raise KeyboardInterrupt


def data():
    x = np.random.default_rng(4).normal(size=(40, 2)).astype("float32")
    return hvd.data.shard(x, x.sum(1, keepdims=True), batch_size=4, seed=5)


def stopping() -> keras.callbacks.EarlyStopping:
    return keras.callbacks.EarlyStopping("loss", patience=5)


def write(folder: Path) -> None:
    saving = hvd.callbacks.CheckpointCallback(folder / "synchronous", every=3, background=False)
    with contextlib.suppress(KeyboardInterrupt):
        synchronous().fit(data(), epochs=2, verbose=0, callbacks=[stopping(), saving, Stop()])
    local_sgd().fit(data(), verbose=0, callbacks=[SaveAt(folder / "local_sgd")])


if __name__ == "__main__":
    hvd.init()
    write(Path(sys.argv[1]))
