"""LARS and LAMB against NumPy in float64, written from the papers."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import hvdkit as hvd
from hvdkit.errors import UsageError
from hvdkit.optim import LARS, exclude_bias_and_norm, is_bias_or_norm
from hvdkit.schedules.learning_rate import set_learning_rate

STEPS = 50


def _gradients(shapes):
    generator = np.random.default_rng(3)
    return [[generator.normal(size=shape) for shape in shapes] for _ in range(STEPS)]


def _weights(shapes):
    generator = np.random.default_rng(4)
    return [generator.normal(size=shape) for shape in shapes]


SHAPES = [(7, 5), (5,), (3, 3, 2, 4), (4,)]


def _trained(optimizer, dtype="float32"):
    weights = [keras.Variable(w, dtype=dtype, name="kernel" if w.ndim > 1 else "bias") for w in _weights(SHAPES)]
    optimizer.build(weights)
    apply = tf.function(lambda *g: optimizer.apply(list(g), weights))
    for gradients in _gradients(SHAPES):
        apply(*[tf.constant(g, dtype) for g in gradients])
    return [np.asarray(w.numpy(), np.float64) for w in weights]


def _lars(rate, momentum, trust, decay, *, nesterov=False, plain=lambda w: w.ndim <= 1):
    """Algorithm 1 of arXiv:1708.03888: gamma is the rate, lambda the local one, beta the decay, m the momentum."""
    weights = _weights(SHAPES)
    velocities = [np.zeros_like(w) for w in weights]
    for t, gradients in enumerate(_gradients(SHAPES)):
        gamma = rate(t)
        for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            beta = 0.0 if plain(w) else decay
            local = 1.0 if plain(w) else trust * np.linalg.norm(w) / (np.linalg.norm(g) + beta * np.linalg.norm(w))
            step = gamma * local * (g + beta * w)
            velocities[i] = momentum * velocities[i] + step
            weights[i] = w - (momentum * velocities[i] + step if nesterov else velocities[i])
    return weights


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_is_the_papers(momentum, decay, nesterov):
    rate = 2.0 if momentum else 5.0
    got = _trained(LARS(rate, momentum, 0.01, weight_decay=decay, nesterov=nesterov))
    for mine, theirs in zip(got, _lars(lambda t: rate, momentum, 0.01, decay, nesterov=nesterov), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


def test_lars_with_a_schedule():
    """The velocity holds the rate of the step it was made with, as in the paper."""
    hvd.init()
    schedule = hvd.schedules.large_batch(0.5, 32, 32, 10, 2, "cosine", epochs=6, size=4)
    got = _trained(LARS(schedule, 0.9, 0.01, weight_decay=0.01))
    for mine, theirs in zip(got, _lars(lambda t: float(schedule(t)), 0.9, 0.01, 0.01), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


def test_lars_excludes_by_names_too():
    got = _trained(LARS(0.1, 0.9, 0.01, weight_decay=0.01, exclude=["kernel"]))
    expected = _lars(lambda t: 0.1, 0.9, 0.01, 0.01, plain=lambda w: w.ndim > 1)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=2e-6 * np.abs(theirs).max())


def _lamb(rate, decay_of, epsilon=1e-7, beta_1=0.9, beta_2=0.999):
    """Algorithm 2 of arXiv:1904.00962, with the decay apart as in Keras: w = w - rate * decay * w goes first."""
    weights = _weights(SHAPES)
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t, gradients in enumerate(_gradients(SHAPES), 1):
        for i, g in enumerate(gradients):
            w = weights[i] - rate * decay_of(weights[i]) * weights[i]
            m[i] = beta_1 * m[i] + (1 - beta_1) * g
            v[i] = beta_2 * v[i] + (1 - beta_2) * g * g
            r = (m[i] / (1 - beta_1**t)) / (np.sqrt(v[i] / (1 - beta_2**t)) + epsilon)
            weights[i] = w - rate * np.linalg.norm(w) / np.linalg.norm(r) * r
    return weights


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_is_the_papers(decay):
    lamb = keras.optimizers.Lamb(0.01, weight_decay=decay or None)
    if decay:
        variables = [keras.Variable(np.zeros(s), name="kernel" if len(s) > 1 else "bias") for s in SHAPES]
        assert [is_bias_or_norm(v) for v in variables] == [False, True, False, True]
    got = _trained_excluding(lamb) if decay else _trained(lamb)
    for mine, theirs in zip(got, _lamb(0.01, lambda w: decay if w.ndim > 1 else 0.0), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


def _trained_excluding(optimizer):
    weights = [keras.Variable(w, name="kernel" if w.ndim > 1 else "bias") for w in _weights(SHAPES)]
    exclude_bias_and_norm(optimizer, weights)
    optimizer.build(weights)
    for gradients in _gradients(SHAPES):
        optimizer.apply([tf.constant(g, "float32") for g in gradients], weights)
    return [np.asarray(w.numpy(), np.float64) for w in weights]


def test_exclusion_says_when_it_comes_too_late_or_too_early():
    with pytest.raises(UsageError, match="not built"):
        exclude_bias_and_norm(keras.optimizers.AdamW(0.1), keras.Sequential([keras.layers.Dense(2)]))
    adam = keras.optimizers.AdamW(0.1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    adam.build(model.trainable_variables)  # as after load_model
    exclude_bias_and_norm(adam, model)
    assert [adam._use_weight_decay(v) for v in model.trainable_variables] == [True, False]
    model.compile(adam, "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 2)), verbose=0)
    with pytest.raises(UsageError, match=r"before model\.fit"):
        exclude_bias_and_norm(adam, model)


def test_attention_biases_are_biases():
    layer = keras.layers.MultiHeadAttention(2, 4)
    layer.build((None, 3, 8), (None, 3, 8))
    assert {v.path.split("/")[-1] for v in layer.weights if is_bias_or_norm(v)} == {"bias"}
    assert sum(map(is_bias_or_norm, layer.weights)) == 4


def test_zero_weights_and_zero_gradients_are_finite():
    weight = keras.Variable(np.zeros((2, 2)))
    lars = LARS(0.5, momentum=0.0)
    lars.apply([tf.ones((2, 2))], [weight])
    np.testing.assert_allclose(weight.numpy(), -0.5)
    lars.apply([tf.zeros((2, 2))], [weight])
    np.testing.assert_allclose(weight.numpy(), -0.5)


def test_lars_of_an_embedding():
    """Sparse gradients, rows twice among them."""
    weight = keras.Variable(np.ones((4, 2)))
    other = keras.Variable(np.ones((4, 2)))
    sparse = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 1, 3]), tf.constant([4, 2]))
    for variable, gradient in ((weight, sparse), (other, tf.convert_to_tensor(sparse))):
        LARS(0.5, weight_decay=0.1).apply([gradient], [variable])
    np.testing.assert_allclose(weight.numpy(), other.numpy())


@pytest.mark.usefixtures("forked_programs")
def test_a_model_with_lars_is_saved_and_loaded(tmp_path):
    hvd.init()
    schedule = hvd.schedules.large_batch(0.5, 32, 32, 10, 2, epochs=6, size=4)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    optimizer = hvd.DistributedOptimizer(LARS(schedule, weight_decay=0.01, exclude=["bias"]))
    model.compile(optimizer, hvd.losses.SmoothSparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model.fit(x, np.arange(64) % 3, verbose=0)
    model.save(tmp_path / "m.keras")
    copy = hvd.load_model(tmp_path / "m.keras")
    mine, theirs = model.optimizer, copy.optimizer
    assert isinstance(theirs, LARS) and theirs.get_config() == mine.get_config()
    for before, after in zip(mine.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())

    code = "import sys, hvdkit as hvd; hvd.init(); print(type(hvd.load_model(sys.argv[1]).optimizer).__name__)"
    words = [sys.executable, "-c", code, str(tmp_path / "m.keras")]  # where nothing of it has been imported
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "LARS"


@pytest.mark.parametrize(
    "wrong", [{"exclude": "bias"}, {"momentum": 1.5}, {"trust_coefficient": -1}, {"weight_decay": -0.1}]
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        LARS(**wrong)


def test_momentum_correction_reaches_its_velocity():
    lars = LARS(0.1)
    lars.build([keras.Variable(np.ones((2, 2)))])
    lars.momentums[0].assign(np.full((2, 2), 3.0))
    set_learning_rate(lars, 0.2, momentum_correction=True)
    np.testing.assert_allclose(lars.momentums[0].numpy(), 6.0, rtol=1e-6)


def test_what_is_excluded_is_settled_when_it_is_built():
    """On a replica the variable has another name."""
    weight = keras.Variable(np.ones((2, 2)), name="bias")
    lars = LARS(0.5, momentum=0.0)
    lars.build([weight])
    weight._name = weight._path = "bias/replica_1"
    lars.apply([tf.ones((2, 2))], [weight])
    np.testing.assert_allclose(weight.numpy(), 0.5)


def test_compiled_and_in_halves():
    """XLA compiles the step; under mixed_float16 the loss scale goes before it."""
    hvd.init()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    for how in ({"jit_compile": True}, {"policy": "mixed_float16"}):
        keras.utils.set_random_seed(1)
        policy = how.get("policy", "float32")
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(8, dtype=policy), keras.layers.Dense(3, dtype=policy)]
        )
        lars = LARS(1.0, weight_decay=0.01)
        model.compile(hvd.DistributedOptimizer(lars), "mse", jit_compile=how.get("jit_compile", False))
        losses = model.fit(x, x[:, :3], epochs=4, verbose=0).history["loss"]
        assert losses[-1] < losses[0], how
