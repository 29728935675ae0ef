"""A training that is killed, told to end, and gone on with: started by the tests on one rank or several.

It writes down which samples each step saw, and at its end everything a training consists of.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.checkpoint import state

DEFAULTS = {
    "epochs": 3,
    "samples": 61,
    "batch": 4,
    "every": 2,
    "policy": "float32",
    "compression": "none",
    "accumulate": None,
    "kill": None,  # the step before which `victim` kills itself, in the first attempt
    "victim": 0,
    "signals": [],  # [step, rank, signal, ...]
    "slow": 0.0,
    "background": True,
    "max_time": None,
    "data": "arrays",  # which ranks share; "split": each has its own; "files"; "stream": a tf.data.Dataset
    "fill": None,  # the step before which the disk is filled up
}


def build(how: dict, data) -> keras.Model:
    hvd.set_seed(11)
    keras.mixed_precision.set_global_policy(how["policy"])
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3, activation="softmax", dtype="float32"),
        ]
    )
    steps = len(data) if hasattr(data, "__len__") else 8
    rate = hvd.schedules.large_batch(
        0.01, 8, how["batch"], steps, 1, epochs=how["epochs"] + 1, accumulation=how["accumulate"] or 1
    )
    optimizer = keras.optimizers.Adam(rate, use_ema=True, gradient_accumulation_steps=how["accumulate"])
    optimizer = hvd.DistributedOptimizer(optimizer, compression=how["compression"])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Diary(keras.callbacks.Callback):
    """Which samples each step saw; and what the plan has in store for a step."""

    def __init__(self, data, how: dict, out: Path):
        super().__init__()
        self.data, self.how = data, how
        self.first = os.environ.get("HVDKIT_RESTART", "0") == "0"
        self.out = out
        self.calls = 0  # the optimizer's own count leaves out steps that loss scaling skips
        self.file = (out / f"rows-{hvd.rank()}-{os.environ.get('HVDKIT_RESTART', '0')}.jsonl").open("a")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.rows = epoch, None

    def on_train_batch_begin(self, batch, logs=None):
        if self.rows is None:
            known = hasattr(self.data, "plan")  # of a stream nobody knows them
            self.rows = [r.tolist() for r in self.data.rows(self.epoch, self.data.plan)] if known else [[]] * 99
        optimizer = self.model.optimizer
        step = int(getattr(optimizer, "inner_optimizer", optimizer)._iterations.numpy())  # micro-steps too
        if self.first:
            self._trouble(self.calls)
        self.calls += 1
        random.random(), np.random.rand(), keras.random.uniform(())
        time.sleep(self.how["slow"])
        self.file.write(json.dumps([self.epoch, step, self.rows[batch]]) + "\n")
        self.file.flush()

    def _trouble(self, step: int) -> None:
        if self.how["fill"] == step:
            time.sleep(1)  # a checkpoint that is on its way is written
            with contextlib.suppress(OSError), (self.out / "checkpoints" / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
        if self.how["kill"] == step and hvd.rank() == self.how["victim"]:
            os.kill(os.getpid(), signal.SIGKILL)
        for at, rank, number in self.how["signals"]:
            if at == step and rank in (hvd.rank(), -1):
                os.kill(os.getpid(), number)


def sharded(x: np.ndarray, y: np.ndarray, out: Path, how: dict):
    """The samples, as the ranks come to them."""
    arguments = {"batch_size": how["batch"], "seed": 3}
    if how["data"] == "split":
        mine = slice(0, 40) if hvd.rank() == 0 else slice(40, None)
        return hvd.data.shard(x[mine], y[mine], presharded=True, **arguments)
    if how["data"] == "files":
        if hvd.rank() == 0:
            for i, begin in enumerate((0, 9, 30, 41)):
                end = (9, 30, 41, None)[i]
                np.savez(out / f"part-{i}.npz", x=x[begin:end], y=y[begin:end])
        hvd.barrier()
        return hvd.data.shard(str(out / "part-*.npz"), **arguments)
    if how["data"] == "stream":
        import tensorflow as tf

        return hvd.data.shard(tf.data.Dataset.from_tensor_slices((x, y)), shuffle=True, **arguments)
    return hvd.data.shard(x, y, **arguments)


def main(out: Path, how: dict) -> None:
    hvd.init()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(how["samples"], 4)).astype("float32")
    y = (x @ rng.normal(size=(4, 3))).argmax(1).astype("int32")
    data = sharded(x, y, out, how)
    model = build(how, data)
    history = keras.callbacks.History()
    stopping = keras.callbacks.EarlyStopping("loss", patience=50, min_delta=9)  # counts each epoch
    saving = hvd.callbacks.CheckpointCallback(
        out / "checkpoints",
        every=how["every"],
        background=how["background"],
        max_time=how["max_time"],
        with_callbacks=[stopping],
    )
    callbacks = [hvd.callbacks.MetricAverageCallback(), stopping, history, saving, Diary(data, how, out)]
    model.fit(data, epochs=how["epochs"], verbose=0, callbacks=callbacks)
    training = state.TrainingState(model)
    everything = state.copied({**training.common, **training.per_rank})
    everything["random/numpy"] = np.random.rand(4)
    everything["random/python"] = np.asarray([random.random()])
    everything["random/keras"] = np.asarray(keras.random.uniform((4,)))
    everything["metrics"] = np.asarray([history.history[k][-1] for k in sorted(history.history)])
    everything["stopping"] = np.asarray([stopping.wait, stopping.best])
    np.savez(out / f"final-{hvd.rank()}.npz", **everything)


if __name__ == "__main__":
    main(Path(sys.argv[1]), {**DEFAULTS, **json.loads(sys.argv[2])})
