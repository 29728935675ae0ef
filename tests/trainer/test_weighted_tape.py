"""Gradients that carry the weight of their batch, in the ways in which scripts take them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvdkit.errors import UsageError
from hvdkit.grads.batch_weight import BatchWeight, weigh_by, weigh_gradients
from hvdkit.trainer import weighted_tape
from hvdkit.utils.patching import Patches

WEIGHT = 1.5


@pytest.fixture(autouse=True)
def installed():
    patches = Patches()
    weighted_tape.patch_tape(patches)
    yield
    patches.restore()
    weighted_tape.forget()


def _taken(take, *, graph: bool, weight: float = WEIGHT, may_be_zero: bool = False):
    """What ``take()`` returns in a step with this weight."""

    def step():
        with weigh_by(BatchWeight(tf.constant(weight), may_be_zero)):
            return take()

    return tf.nest.map_structure(np.asarray, (tf.function(step, autograph=False) if graph else step)())


both = pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])


@both
def test_a_layer_that_computes_again_is_weighed_once(graph):
    with keras.RematScope(mode="full"):
        layer = keras.layers.Dense(1, kernel_initializer="ones")
    layer.build((None, 2))

    def take():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.ones((1, 2))))
        return tape.gradient(loss, [layer.kernel.value, layer.bias.value])

    kernel, bias = _taken(take, graph=graph)
    assert kernel.ravel().tolist() == [WEIGHT, WEIGHT] and bias.tolist() == [WEIGHT]


@both
def test_targets_of_every_kind(graph):
    v = tf.Variable([1.0, 2.0])

    def take():
        with tf.GradientTape(persistent=True) as tape:
            number, vector = tf.reduce_sum(v * v), 3.0 * v
            ragged = tf.RaggedTensor.from_row_lengths(v * v, [2])
        return [
            tape.gradient(number, v),
            tape.gradient([number, vector], v),
            tape.gradient(vector, v, output_gradients=tf.constant([1.0, 10.0])),
            tape.gradient(ragged, v),
            tape.gradient(v, v),
        ]

    wanted = [[2, 4], [5, 7], [3, 30], [2, 4], [1, 1]]
    for got, want in zip(_taken(take, graph=graph), wanted, strict=True):
        np.testing.assert_allclose(got, np.asarray(want) * WEIGHT)


@pytest.mark.parametrize("clipped", [False, True])
def test_a_gradient_taken_under_another_tape_is_weighed_when_it_is_applied(clipped):
    d, g = tf.Variable(2.0), tf.Variable(3.0)

    def take():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = d * d
            of_d = [inner.gradient(loss, d)]
            if clipped:
                of_d, _ = tf.clip_by_global_norm(of_d, 100.0)
            loss = g * g
        of_g = [outer.gradient(loss, g)]
        return [*weigh_gradients(of_d), *weigh_gradients(of_g)]

    assert [float(x) for x in _taken(take, graph=True)] == [6.0, 9.0]
    if clipped:
        with pytest.raises(UsageError, match="runs eagerly"):
            _taken(take, graph=False)
    else:
        assert [float(x) for x in _taken(take, graph=False)] == [6.0, 9.0]


def test_a_penalty_and_an_inner_step_are_weighed_once():
    """Of meta-learning: the outer gradient carries the weight, also when it is clipped by hand afterwards."""
    w = tf.Variable(2.0)

    def take():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = w * w
            moved = w - 0.1 * inner.gradient(loss, w)
            loss = moved * moved
        gradients, _ = tf.clip_by_global_norm([outer.gradient(loss, w)], 100.0)
        return weigh_gradients(gradients)

    (got,) = _taken(take, graph=True)
    assert float(got) == pytest.approx(WEIGHT * 2 * 0.8 * 1.6)


def test_gradients_of_no_tape_are_weighed_when_they_are_applied():
    v = tf.Variable(3.0)
    take = lambda: weigh_gradients(tf.gradients(v * v, [v]))
    assert [float(x) for x in _taken(take, graph=True)] == [6.0 * WEIGHT]


@both
def test_a_rank_without_samples_brings_zeros_and_no_slices(graph):
    v, table = tf.Variable([3.0]), tf.Variable(tf.ones((4, 2)))

    def take():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.math.log(v * 0.0)) + tf.reduce_sum(tf.gather(table, [1, 2]))
        of_v, of_table = tape.gradient(loss, [v, table])
        return of_v, of_table.values, of_table.indices

    of_v, values, indices = _taken(take, graph=graph, weight=0.0, may_be_zero=True)
    assert of_v.tolist() == [0.0] and len(values) == len(indices) == 0
