"""How fast each rank is, so that slower ones get smaller batches."""

from __future__ import annotations

import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from hvdkit.comm import exchange, ops, world
from hvdkit.data.epoch_plan import proportional
from hvdkit.data.sharded import MapStyleData
from hvdkit.utils.log import get_logger

_ROUNDS = 5


def measured_sizes(model: keras.Model, data: MapStyleData) -> list[int]:
    """The batch size of each rank in proportion to its speed, with the same sum; collective.

    Every rank times the forward and backward pass of a batch by itself, all at once, without a reduction: in a real
    step the fast ranks wait for the slow ones, and all take as long. The model is left as it was.

    Args:
        model: what is about to be trained, compiled.
        data: what it is trained on; its first samples are used.
    """
    batch = data.source.take(tf.constant(data.rows(0)[0]))
    seconds = _seconds(model, batch)
    per_rank = [float(s) for s in exchange.allgather_object(seconds, "hvd.data.shard: the speed of each rank")]
    samples = [max(1, int(n)) for n in data.plan.counts[0]]
    sizes = proportional(sum(data.sizes), [n / s for n, s in zip(samples, per_rank, strict=True)])
    if world.rank() == 0:
        get_logger().info("per_rank_batch: ranks 0 to %d get batches of %s.", len(sizes) - 1, sizes)
    return sizes


def _seconds(model: keras.Model, batch: tuple) -> float:
    x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
    if not model.built:
        model(x)
    variables = [v.value for v in model.non_trainable_variables]
    before = [v.numpy() for v in variables]

    @tf.function
    def gradients() -> list:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=weight)
        return [g for g in tape.gradient(loss, [v.value for v in model.trainable_weights]) if g is not None]

    gradients()
    ops.barrier()
    times = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        np.asarray(gradients()[0])
        times.append(time.perf_counter() - begin)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    return statistics.median(times)
