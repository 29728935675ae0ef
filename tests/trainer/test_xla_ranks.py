"""jit_compile=True on several ranks: XLA compiles both halves of a step, and the weights are those without it."""

from __future__ import annotations

import functools
import inspect

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]

# A name, and how many functions XLA compiles of its train step.
CASES = {
    "sgd": 2,
    "adam-global": 2,
    "adamw-ema": 2,
    "embedding": 2,
    "together": 2,
    "fp16": 2,
    "factor": 2,
    "lossscale": 2,
    "half": 2,
    "frozen": 2,
    "k2": 1,  # the reduction is in the middle of the update
    "lossscale-local": 1,  # and here the question, whether all are finite
    "sync-bn": 0,  # collectives in the forward pass
    "own-step": 0,
    "tape": 0,
}
WHERE = {"mpi": [*CASES], "gloo": ["adam-global", "k2", "sync-bn"]}


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class Tape(keras.Model):
    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with hvd.DistributedGradientTape(tf.GradientTape()) as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


_METRICS = {"tape": None}


def _optimizer(name: str):
    optimizers = keras.optimizers
    made = {
        "adam-global": lambda: optimizers.Adam(1e-3, global_clipnorm=0.2),
        "adamw-ema": lambda: optimizers.AdamW(1e-3, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3),
        "embedding": lambda: optimizers.Adam(1e-3),
        "factor": lambda: optimizers.SGD(0.05, loss_scale_factor=128.0, global_clipnorm=0.2),
        "k2": lambda: optimizers.Adam(1e-3, gradient_accumulation_steps=2),
    }.get(name, lambda: optimizers.SGD(0.05, momentum=0.9))()
    if name.startswith("lossscale"):
        made = optimizers.LossScaleOptimizer(made, initial_scale=64.0, dynamic_growth_steps=3)
    if name == "tape":
        return made
    return hvd.DistributedOptimizer(made, compression="fp16" if name == "fp16" else None)


def _model(name: str) -> keras.Model:
    layers = keras.layers
    body = [keras.Input((6,)), layers.Dense(12, activation="tanh")]
    if name == "embedding":
        body = [keras.Input((5,), dtype="int32"), layers.Embedding(50, 8), layers.GlobalAveragePooling1D()]
    if name == "frozen":
        body[1].trainable = False
    body.append(hvd.SyncBatchNormalization() if name == "sync-bn" else layers.BatchNormalization())
    model = keras.Sequential([*body, layers.Dense(8, activation="tanh"), layers.Dense(1, dtype="float32")])
    kinds = {"own-step": OwnStep, "tape": Tape}
    return kinds[name](model.inputs, model.outputs) if name in kinds else model


def train(name: str, *, jit_compile: bool) -> dict:
    """The weights after some steps, the loss, and how many functions XLA compiled of the train step."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("mixed_float16" if name == "half" else "float32")
    try:
        rng = np.random.default_rng(hvd.rank())
        n = 12 * 4 + 2  # the last batch is smaller
        x = rng.normal(size=(n, 6)).astype("float32")
        if name == "embedding":
            x = rng.integers(0, 40, size=(n, 5)).astype("int32")
        y = np.sin(x.sum(1, keepdims=True)).astype("float32")
        if name.startswith("lossscale") and hvd.rank() == 1:
            x[3 * 4] = np.nan
        model = _model(name)
        optimizer = _optimizer(name)
        if name == "lossscale-local":
            optimizer.register_local_var(model.layers[-1].bias)
        steps = 4 if name == "together" else 1
        model.compile(
            optimizer, "mse", jit_compile=jit_compile, steps_per_execution=steps, metrics=_METRICS.get(name, ["mae"])
        )
        losses = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]
        if name == "lossscale-local":
            model.layers[-1].bias.assign([0.0])  # its own on each rank
        weights = [np.asarray(v.numpy(), "float32") for v in model.weights]
        return {
            "names": [v.path for v in model.weights],
            "weights": weights,
            "loss": losses,
            "compiled": _compiled(model),
        }
    finally:
        keras.config.set_dtype_policy("float32")


def _compiled(model) -> int:
    """How many halves of the step XLA compiles; each is there once per shape of data."""
    step = inspect.getclosurevars(model.train_function).nonlocals["multi_step_on_iterator"]
    found = set()
    for function in step._list_all_concrete_functions():
        for inner in function.graph.as_graph_def().library.function:
            if inner.attr["_XlaMustCompile"].b:
                found.add("update" if "update" in inner.signature.name else "forward")
    return len(found)


def train_both(names: list[str]) -> dict:
    """Some cases, without and with XLA."""
    results = {}
    for name in names:
        results[name] = [train(name, jit_compile=False), train(name, jit_compile=True)]
        keras.backend.clear_session()
    return results


@functools.cache
def _done(which: str):
    return run_ranks(2, train_both, WHERE[which], **world(which), timeout=900)


@pytest.mark.parametrize(("which", "name"), [(which, name) for which, names in WHERE.items() for name in names])
@pytest.mark.timeout(1000)
def test_a_compiled_step_is_the_uncompiled_one(which, name):
    first, second = (rank[name] for rank in _done(which).values)
    without, compiled = first
    assert (without["compiled"], compiled["compiled"]) == (0, CASES[name])
    atol = 1e-5 if name not in ("fp16", "half") else 1e-3  # halves round otherwise, where XLA joins operations
    for a, b in zip(compiled["weights"], without["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)
    np.testing.assert_allclose(compiled["loss"], without["loss"], rtol=0, atol=atol)
    for a, b in zip(_common(first[1]), _common(second[1]), strict=True):
        assert a.tobytes() == b.tobytes(), "the ranks differ"


def _common(trained: dict) -> list:
    """What ranks have in common: not the statistics of each rank's own batches."""
    return [w for name, w in zip(trained["names"], trained["weights"], strict=True) if "moving" not in name]


def test_what_is_not_compiled_says_why():
    said = _done("mpi").output
    assert said.count("jit_compile: XLA compiles the train step but for the reduction") == sum(
        map(bool, CASES.values())
    )
    assert "off for the train step: its forward or backward pass has operations that XLA lacks (PyFunc" in said
    assert "off for the train step: OwnStep has a custom train_step" in said
    assert "off for the train step: Tape has a custom train_step" in said
