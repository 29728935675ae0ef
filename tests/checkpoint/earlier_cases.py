"""Trainings whose checkpoints an earlier hvdkit has written: ``earlier/`` holds one of each, of two ranks.

They were written with ``mpirun -np 2 python -m tests.checkpoint.earlier_cases tests/checkpoint/earlier`` and stay as
they are: what an earlier version wrote is read by all later ones.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.checkpoint.state import TrainingState, copied
from hvdkit.checkpoint.storage.store import Store

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


def earlier() -> dict:
    """What is restored of checkpoints that an earlier hvdkit has written, by the names it gave."""
    out = {}
    model = synchronous(steps=5)  # half as many in an epoch as when it was saved
    waiting = stopping()
    saving = hvd.callbacks.CheckpointCallback(_copy_of("synchronous"), every=1000, with_callbacks=[waiting])
    try:
        model.fit(data(), epochs=2, verbose=0, callbacks=[waiting, saving, _Take(out, waiting)])
    except KeyboardInterrupt:
        saving._saver.close()
    local = local_sgd()
    hvd.checkpoint.restore(local, EARLIER / "local_sgd")
    averaging = local.optimizer._hvdkit.averaging
    beside = [averaging.steps_since_sync, *averaging.outer_parameters, *averaging.outer_momenta]
    return {
        **out,
        "local": _copies(local.weights),
        "slots": _copies(local.optimizer.momentums),
        "beside": _copies(beside),
    }


def _copies(variables) -> list:
    return [np.array(v) for v in variables]


class _Take(keras.callbacks.Callback):
    def __init__(self, out: dict, stopping):
        super().__init__()
        self.out, self.stopping = out, stopping

    def on_train_batch_begin(self, batch, logs=None):
        training = TrainingState(self.model)
        self.out["tensors"] = copied({**training.common, **training.per_rank})
        self.out["wait"], self.out["epoch of the rate"] = self.stopping.wait, _epoch(self.model)
        raise KeyboardInterrupt


def _epoch(model: keras.Model) -> float:
    return float(model.optimizer._learning_rate.epoch(3))


def _copy_of(name: str) -> Path:
    """A directory that can be written, and holds the checkpoint."""
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None))
    if hvd.rank() == 0:
        shutil.copytree(EARLIER / name, folder / name)
    hvd.barrier()
    return folder / name


def stored(name: str, rank: int) -> dict:
    """The tensors of an earlier checkpoint that a rank restores, by their kinds and places."""
    checkpoint = Store(EARLIER / name).newest_valid()
    return {
        "/".join(n.split("/")[:2]): checkpoint.get(part, n)
        for part in ("common", f"rank-{rank:05d}")
        for n in checkpoint.names(part)
    }


if __name__ == "__main__":
    hvd.init()
    write(Path(sys.argv[1]))
