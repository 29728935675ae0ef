"""Loss scales and what else may part the ranks: gradients that differ, reductions of one name."""

from __future__ import annotations

import time

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from tests.optim.check_common import message


def two_loss_scales() -> dict:
    """Passes inside a ``LossScaleOptimizer`` and around one: a NaN on one rank is skipped by all."""
    out = {}
    for nesting in ("inside", "outside"):
        sgd = keras.optimizers.SGD(1.0)
        if nesting == "inside":
            inner = hvd.DistributedOptimizer(sgd, backward_passes_per_step=2, average_aggregated_gradients=True)
            optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
        else:
            outer = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=4.0)
            optimizer = hvd.DistributedOptimizer(outer, backward_passes_per_step=2, average_aggregated_gradients=True)
        x = keras.Variable(0.0)
        values = []
        for step, gradient in enumerate((4.0, 4.0, 4.0, 4.0, 4.0)):
            bad = step == 2 and hvd.rank() == 1
            optimizer.apply_gradients([(tf.constant(float("nan") if bad else gradient * (hvd.rank() + 1)), x)])
            values.append(float(x.numpy()))
        out[nesting] = [values, float(optimizer.dynamic_scale)]
    return out


def local_loss_scale() -> dict:
    """A NaN in a gradient that only one rank sees: all skip, or the common weights part."""
    outer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=4.0)
    optimizer = hvd.DistributedOptimizer(outer)
    common, own = keras.Variable(0.0, name="common"), keras.Variable(0.0, name="own")
    optimizer.register_local_var(own)
    for bad in (True, False):
        gradient = float("nan") if bad and hvd.rank() == 1 else 4.0
        optimizer.apply_gradients([(tf.constant(4.0), common), (tf.constant(gradient), own)])
    around = keras.optimizers.LossScaleOptimizer(hvd.DistributedOptimizer(keras.optimizers.SGD(1.0)))
    return {
        "common": float(common.numpy()),
        "scale": float(optimizer.dynamic_scale),
        "around": hasattr(around, "register_local_var"),
    }


def gradients_that_differ() -> dict:
    """Rank 1 brings something else: every rank says so, and soon."""
    out = {}
    odd = hvd.rank() == 1
    x, y = keras.Variable([1.0, 2.0], name="first"), keras.Variable([1.0], name="second")
    ones, one = tf.ones([2]), tf.ones([1])
    cases = {
        "none": lambda o: o.apply_gradients([(ones, x), (None if odd else one, y)]),
        "number": lambda o: o.apply_gradients([(ones, x)] if odd else [(ones, x), (one, y)]),
        "shape": lambda o: (
            o.apply_gradients([(tf.ones([3]), keras.Variable(np.ones(3), name="first"))])
            if odd
            else o.apply_gradients([(ones, x)])
        ),
        "dtype": lambda o: o.apply_gradients([(tf.cast(ones, tf.float64) if odd else ones, x)]),
        "sparse": lambda o: o.apply_gradients(
            [(tf.IndexedSlices(one, tf.constant([0]), tf.constant([2])) if odd else ones, x)]
        ),
        "local": lambda o: (odd and o.register_local_var(x), o.apply_gradients([(ones, x), (one, y)])),
    }
    for name, case in cases.items():
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1))
        start = time.monotonic()
        out[name] = [message(lambda case=case, optimizer=optimizer: case(optimizer)), time.monotonic() - start]
    return out


def one_name_twice() -> dict:
    """Two reductions of one name in one graph, which the ranks come to in opposite order."""
    rank = hvd.rank()

    def late(value, seconds):
        return tf.numpy_function(lambda x: (time.sleep(seconds), x)[1], [value], tf.float32, stateful=False)

    def two_values(unit):  # rank 0 has the first late, the others the second
        first = tf.ensure_shape(late(unit, 0.0 if rank else 0.7), [])
        second = tf.ensure_shape(late(100.0 * unit, 0.7 if rank else 0.0), [])
        return first, second

    out = {}
    optimizer, x = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0)), keras.Variable(0.0)
    optimizer.build([x])
    seen = [tf.Variable(0.0), tf.Variable(0.0)]

    @tf.function
    def applied_twice(unit):
        first, second = two_values(unit)
        optimizer.apply_gradients([(first, x)])
        seen[0].assign(x.value)
        optimizer.apply_gradients([(second, x)])
        seen[1].assign(x.value)

    applied_twice(tf.constant(1.0))  # an argument: a constant would be computed once, beforehand
    out["optimizer"] = [float(v.numpy()) for v in seen]

    one, other = (hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), name="same") for _ in range(2))
    a, b = keras.Variable(0.0, name="v"), keras.Variable(0.0, name="v")
    one.build([a])
    other.build([b])

    @tf.function
    def one_after_the_other(unit):
        first, second = two_values(unit)
        one.apply_gradients([(first, a)])
        other.apply_gradients([(second, b)])

    one_after_the_other(tf.constant(1.0))
    out["optimizers"] = [float(a.numpy()), float(b.numpy())]

    w = tf.Variable(1.0)

    def gradient(factor):
        with tf.GradientTape() as plain:
            value = w * factor
        return hvd.DistributedGradientTape(plain).gradient(value, w)

    inner = tf.function(gradient)
    inner(tf.constant(1.0))

    @tf.function
    def outer(unit):
        first, second = two_values(unit)
        return inner(first), gradient(second)

    out["tapes"] = [float(g) for g in outer(tf.constant(1.0))]
    return out
