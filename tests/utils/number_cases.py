"""Numbers as a collective returns them, wherever hvdkit takes a number."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from hvdkit.checkpoint.storage.format import step_name
from hvdkit.checkpoint.storage.retention import RetentionPolicy
from hvdkit.schedules import WarmupThenDecay
from hvdkit.schedules.formula import scaling
from hvdkit.utils.numbers import seconds_of

FORMS: dict[str, Callable] = {
    "NumPy": lambda v: np.asarray(v)[()],
    "array": np.asarray,
    "tensor": tf.constant,
    "halves": lambda v: tf.constant(v, tf.bfloat16) if isinstance(v, float) else np.uint8(v % 256),
}
X = np.arange(8, dtype="float32")[:, None]


def _local_sgd(state: Any) -> str:
    return repr([state.sync_period, state.start_step, state.outer_lr, state.outer_momentum])


def _sgd(**how: Any) -> Any:
    return hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), **how)._hvdkit.pipeline.options


def _dataset(v: Callable) -> list:
    data = hvd.data.shard(tf.data.Dataset.range(8), batch_size=v(2), shuffle=True, seed=v(3), buffer_size=v(8))
    return [batch.numpy().tolist() for batch, _ in data.batches(v(1))]


# Each takes ``v``, which makes a number of another kind of it, and returns what came of it.
TAKEN: dict[str, Callable[[Callable], Any]] = {
    "shard": lambda v: [b.numpy().tolist() for b, _ in hvd.data.shard(X, batch_size=v(2), seed=v(3)).batches(v(1))],
    "rows": lambda v: [r.tolist() for r in hvd.data.shard(X, batch_size=v(2), seed=v(3)).rows(v(1))],
    "shard a dataset": _dataset,
    "large_batch": lambda v: hvd.schedules.large_batch(
        v(0.5), v(16), v(4), v(10), v(2), epochs=v(8), accumulation=v(2), warmup_from=v(0.25), size=v(8)
    ).get_config(),
    "WarmupThenDecay": lambda v: repr(WarmupThenDecay(v(0.5), v(1.0), v(2), epochs=v(4))),
    "scale": lambda v: scaling.scale(v(16), v(64)),
    "warmup": lambda v: _facts(hvd.callbacks.LearningRateWarmupCallback(v(0.5), v(3), steps_per_epoch=v(4))),
    "schedule": lambda v: _facts(
        hvd.callbacks.LearningRateScheduleCallback(v(0.5), v(0.5), v(1), v(3), steps_per_epoch=v(4))
    ),
    "CheckpointCallback": lambda v: _facts(
        hvd.callbacks.CheckpointCallback("there", every=v(5), keep=v(2), max_time=v(90))
    ),
    "RetentionPolicy": lambda v: repr(RetentionPolicy(v(2), v(3), v(1), "loss")),
    "max_time": lambda v: seconds_of(v(0.5)),
    "step_name": lambda v: step_name(v(7)),
    "GradientNoiseScale": lambda v: _facts(hvd.callbacks.GradientNoiseScale(v(3), v(8), v(0.5))),
    "ConsistencyCheck": lambda v: _facts(hvd.callbacks.ConsistencyCheck(v(3))),
    "Broadcast": lambda v: _facts(hvd.callbacks.BroadcastGlobalVariablesCallback(v(0))),
    "optimizer": lambda v: repr(
        [
            _sgd(groups=v(2)).groups,
            _sgd(bucket_bytes=v(8)).bucket_bytes,
            _sgd(gradient_predivide_factor=v(2.0)).predivide,
        ]
    ),
    "no groups": lambda v: repr(_sgd(groups=v(0)).groups),
    "backward_passes_per_step": lambda v: repr(
        hvd.DistributedOptimizer(keras.optimizers.SGD(), backward_passes_per_step=v(2)).gradient_accumulation_steps
    ),
    "local_sgd": lambda v: _local_sgd(
        hvd.optim.LocalSGD("sgd", v(4), start_step=v(2), outer_lr=v(0.5), outer_momentum=v(0.5))._hvdkit.averaging
    ),
    "LARS": lambda v: {
        k: repr(n)
        for k, n in hvd.optim.LARS(0.5, v(0.5), v(0.25), v(0.5), v(0.5)).get_config().items()
        if k in ("momentum", "trust_coefficient", "epsilon", "weight_decay")
    },
    "ProcessSet": lambda v: repr(hvd.ProcessSet([v(1), v(0)]).ranks),
    "set_seed": lambda v: repr(hvd.set_seed(v(7))),
    "broadcast": lambda v: float(hvd.broadcast(hvd.rank() + 1.0, v(0))),
    "broadcast_object": lambda v: hvd.broadcast_object({"rank": hvd.rank()}, v(0)),
    "broadcast_variables": lambda v: hvd.broadcast_variables([keras.Variable([1.0])], v(0)),
    "allreduce": lambda v: float(hvd.allreduce(1.0, prescale_factor=v(2.0), postscale_factor=v(0.5))),
}


def _facts(made: Any) -> dict:
    return {
        k: repr(v)
        for k, v in vars(made).items()
        if isinstance(v, bool | int | float | str | np.generic | RetentionPolicy)
    }


def taken() -> dict:
    """What each makes of a Python number, and of others; where they are not the same."""
    different = {}
    for name, case in TAKEN.items():
        expected = repr(case(lambda v: v))
        for form, make in FORMS.items():
            try:
                found = repr(case(make))
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            if found != expected:
                different[f"{name}, {form}"] = [found[:500], expected[:500]]
    return different


def resumed(form: str) -> dict:
    """Horovod's pattern: rank 0 knows where to go on, and tells the others."""
    know = {"initial_epoch": 1, "epochs": 3, "steps_per_epoch": 2}
    told = {k: hvd.broadcast(v if hvd.rank() == 0 else 0, 0, name=k) for k, v in know.items()}
    told = {k: FORMS[form](int(v)) for k, v in told.items()}
    made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made.compile(hvd.DistributedOptimizer("sgd"), "mse")
    data = tf.data.Dataset.from_tensor_slices((X, X)).batch(2).repeat()
    history = made.fit(data, verbose=0, **told, callbacks=hvd.callbacks.defaults())
    with tempfile.TemporaryDirectory() as own:
        directory = hvd.broadcast_object(own)
        hvd.checkpoint.save(made, directory, step=told["epochs"], epoch=told["initial_epoch"])
        restored = hvd.checkpoint.restore(made, directory, step=told["epochs"])
        hvd.barrier()
    return {
        "epochs": history.epoch,
        "steps": int(made.optimizer.iterations.numpy()),
        "restored": [repr(restored.step), repr(restored.epoch)],
    }


def everything() -> dict:
    return {"different": taken(), "resumed": {form: resumed(form) for form in FORMS}}
