"""The recipe's one-liners: gammas that begin at 0, batch norms made anew, label smoothing."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.app import models
from hvdkit.errors import UsageError
from hvdkit.losses import SmoothSparseCategoricalCrossentropy

layers = keras.layers


@pytest.fixture(autouse=True)
def _world():
    hvd.init()


def _gammas(model):
    return {layer.name: layer.gamma.numpy() for layer in model._flatten_layers() if hasattr(layer, "gamma")}


def test_the_end_of_the_residual_branch_and_not_the_projection():
    x = keras.Input((8, 8, 4))
    y = layers.ReLU()(layers.BatchNormalization(name="first")(layers.Conv2D(8, 3, padding="same")(x)))
    y = layers.BatchNormalization(name="last")(layers.Conv2D(8, 3, padding="same")(y))
    shortcut = layers.BatchNormalization(name="projection")(layers.Conv2D(8, 1)(x))
    y = layers.ReLU()(layers.Add()([y, shortcut]))
    z = layers.Dropout(0.1)(layers.BatchNormalization(name="second")(layers.Conv2D(8, 1)(y)))
    model = keras.Model(x, layers.Add()([y, z]))
    assert sorted(hvd.layers.zero_last_gamma(model)) == ["last", "second"]
    zero = {name for name, gamma in _gammas(model).items() if not gamma.any()}
    assert zero == {"last", "second"}


def test_a_branch_that_ends_otherwise_leaves_its_shortcut_alone():
    x = keras.Input((4,))
    stem = layers.BatchNormalization(name="stem")(layers.Dense(4)(x))
    branch = layers.ReLU()(layers.BatchNormalization(name="branch")(layers.Dense(4)(stem)))
    y = layers.Add()([stem, branch])
    last = layers.BatchNormalization(name="last")(layers.Dense(4)(layers.ReLU()(layers.Dense(4)(y))))
    model = keras.Model(x, layers.Add()([y, last]))
    assert hvd.layers.zero_last_gamma(model) == ["last"]


def test_what_a_layer_was_adapted_to_stays():
    adapted = layers.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(50, 5, size=(100, 3)))
    model = keras.Sequential([keras.Input((3,)), adapted, layers.BatchNormalization()])
    copy = hvd.layers.with_batch_norm(model, momentum=0.9)
    data = np.full((2, 3), 55.0)
    np.testing.assert_allclose(copy(data), model(data), rtol=1e-6)


def test_a_block_with_zero_gamma_is_its_shortcut():
    x = keras.Input((8, 8, 4))
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    model = keras.Model(x, layers.Add()([x, y]))
    hvd.layers.zero_last_gamma(model)
    data = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(model(data, training=True), data, atol=1e-6)


def test_models_inside_models():
    x = keras.Input((4,))
    inner = keras.Model(x, layers.Add()([x, layers.BatchNormalization(name="deep")(layers.Dense(4)(x))]))
    assert hvd.layers.zero_last_gamma(keras.Sequential([keras.Input((4,)), inner, layers.Dense(1)])) == ["deep"]


def test_none_to_zero_is_an_error():
    x = keras.Input((4,))
    with pytest.raises(UsageError, match="gamma_initializer"):
        hvd.layers.zero_last_gamma(keras.Model(x, layers.Add()([x, layers.Dense(4)(layers.BatchNormalization()(x))])))


def test_the_small_residual_network():
    model = models.resnet((8, 8, 1), 10, blocks=2)
    assert sum(not gamma.any() for gamma in _gammas(model).values()) == 4
    assert all(gamma.all() for gamma in _gammas(models.resnet((8, 8, 1), 10, zero_gamma=False)).values())
    kinds = {type(layer) for layer in models.resnet((8, 8, 1), 10, sync_batch_norm=True).layers}
    assert hvd.SyncBatchNormalization in kinds and layers.BatchNormalization not in kinds


def test_batch_norms_made_anew_keep_the_weights():
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(epsilon=0.1), layers.Dense(2)])
    model = keras.Model(x, inner(layers.BatchNormalization(center=False)(x)))
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).uniform(0.5, 1, weight.shape))
    copy = hvd.layers.with_batch_norm(model, synchronized=True, momentum=0.8)
    data = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    np.testing.assert_allclose(copy(data), model(data), atol=1e-6)
    norms = [layer for layer in copy._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    assert [type(n) for n in norms] == [hvd.SyncBatchNormalization] * 2
    assert {n.momentum for n in norms} == {0.8} and {n.epsilon for n in norms} == {0.1, 0.001}
    back = hvd.layers.with_batch_norm(copy, synchronized=False)
    assert {type(n) for n in back._flatten_layers() if hasattr(n, "gamma")} == {layers.BatchNormalization}
    np.testing.assert_allclose(back(data, training=True), model(data, training=True), atol=1e-6)


def test_what_cannot_be_copied():
    with pytest.raises(UsageError, match="no batch norm"):
        hvd.layers.with_batch_norm(keras.Sequential([keras.Input((2,)), layers.Dense(1)]), momentum=0.9)

    wrapped = keras.Sequential([keras.Input((3, 2)), layers.TimeDistributed(layers.BatchNormalization())])
    with pytest.raises(UsageError, match="TimeDistributed around a batch norm"):
        hvd.layers.with_batch_norm(wrapped, momentum=0.9)

    class Own(keras.Model):
        pass

    with pytest.raises(UsageError, match="custom class, which cannot be copied"):
        hvd.layers.with_batch_norm(Own(), momentum=0.9)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3)])
def test_label_smoothing_is_that_of_one_hot_labels(shape, from_logits):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, size=shape)
    flat = labels[:, 0] if shape == (6, 1) else labels
    outputs = rng.uniform(0.1, 1, size=(*flat.shape, 4)).astype("float32")
    outputs /= outputs.sum(-1, keepdims=True)
    known = keras.losses.CategoricalCrossentropy(from_logits=from_logits, label_smoothing=0.2)
    ours = SmoothSparseCategoricalCrossentropy(from_logits=from_logits, label_smoothing=0.2)
    assert float(ours(labels, outputs)) == pytest.approx(float(known(np.eye(4)[flat], outputs)), rel=1e-6)
    copy = keras.losses.deserialize(keras.losses.serialize(ours))
    assert float(copy(labels, outputs)) == float(ours(labels, outputs))
