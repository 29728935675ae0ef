"""Loading and broadcasting models on every rank."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np

import hvdkit as hvd
from tests.optim.check_common import message


class OwnRMSprop(keras.optimizers.RMSprop):
    """A user's own optimizer."""


def _model(optimizer) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(3)])
    model.compile(optimizer, keras.losses.MeanSquaredError(), metrics=[keras.metrics.MeanAbsoluteError()])
    return model


def _same_state(a, b) -> bool:
    pairs = list(zip(a.variables, b.variables, strict=True))
    return all(np.array_equal(x.numpy(), y.numpy()) for x, y in pairs)


def _close(a, b) -> bool:
    return np.allclose(a, b, atol=1e-3)


def load_model() -> dict:
    """A loaded model's optimizer is distributed, with its slots, iterations and learning rate."""
    from hvdkit.optim.distributed import is_distributed

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(hvd.rank())
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    out = {}
    own = {"custom_optimizers": [OwnRMSprop]}
    lambdas = {"custom_objects": {"OwnRMSprop": lambda **kwargs: hvd.DistributedOptimizer(OwnRMSprop(**kwargs))}}
    for name, optimizer, arguments, suffix in (
        ("plain", keras.optimizers.RMSprop(1e-4), {}, ".keras"),
        ("h5", keras.optimizers.Adam(1e-3), {"compression": hvd.Compression.fp16}, ".h5"),
        ("class", OwnRMSprop(1e-4), own, ".keras"),
        ("lambda", OwnRMSprop(1e-4), lambdas, ".keras"),
        ("loss scale", keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), {}, ".keras"),
    ):
        model = _model(hvd.DistributedOptimizer(optimizer))
        for _ in range(2):
            model.train_on_batch(x, y)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / f"model{suffix}")
            model.save(path)
            loaded = hvd.load_model(path, **arguments)
        new = loaded.optimizer
        kept = _same_state(model.optimizer, new)
        loaded.train_on_batch(x, y)
        model.train_on_batch(x, y)
        out[name] = {
            "class": type(new).__name__,
            "distributed": is_distributed(new),
            "kept": kept,
            "iterations": int(new.iterations),
            "goes on": all(map(_close, model.get_weights(), loaded.get_weights())),
            "sha": hvd.assert_equal_weights(loaded),
        }
    return out


def load_on_rank_0() -> dict:
    """Rank 0 loads a checkpoint, the others build; the broadcast gives them everything."""
    keras.utils.set_random_seed(hvd.rank())
    rng = np.random.default_rng(hvd.rank())
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))

    def optimizer():
        return hvd.DistributedOptimizer(keras.optimizers.SGD(0.01, momentum=0.9))

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.keras")
        model = _model(optimizer())
        model.train_on_batch(x, y)
        if hvd.rank() == 0:
            model.save(path)
        resumed = hvd.load_model(path) if hvd.rank() == 0 else _model(optimizer())
    before = len(resumed.optimizer.variables)
    resumed.fit(x, y, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)], verbose=0)
    return {
        "variables": [before, len(resumed.optimizer.variables)],
        "iterations": int(resumed.optimizer.iterations),
        "sha": hvd.assert_equal_weights(resumed),
        "slots": hvd.assert_equal_weights(resumed.optimizer.variables),
    }


def broadcast_global() -> dict:
    """A model, an optimizer or variables."""
    root = hvd.size() - 1
    keras.utils.set_random_seed(hvd.rank())
    model = _model(keras.optimizers.Adam(0.1 * (hvd.rank() + 1)))
    hvd.broadcast_global_variables(root, model)
    variable = keras.Variable(float(hvd.rank()))
    hvd.broadcast_global_variables(root_rank=root, variables=[variable])
    return {
        "sha": hvd.assert_equal_weights(model),
        "rate": float(model.optimizer.learning_rate),
        "variable": float(variable.numpy()),
        "error": message(lambda: hvd.broadcast_global_variables(0)),
    }


def loaded_passes() -> dict:
    """What was trained with a sum of passes goes on with a sum, when that is said again."""
    out = {}
    for said in ({"backward_passes_per_step": 2}, {}):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.5), backward_passes_per_step=2)
        model.compile(optimizer, keras.losses.MeanAbsoluteError())
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.keras")
            model.save(path)
            loaded = hvd.load_model(path, **said)
        before = float(loaded.layers[0].bias.numpy()[0])
        for _ in range(2):
            loaded.train_on_batch(np.zeros((1, 1)), np.ones((1, 1)) * 9.0)
        out[str(sorted(said))] = float(loaded.layers[0].bias.numpy()[0]) - before
    return out
