"""Gradient tapes on every rank."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd


def tape() -> dict:
    """Tapes: dense and sparse in any order, groups, local sources, several in one graph, structures."""
    rank = hvd.rank()
    w = keras.Variable([1.0, 2.0], name="kernel")
    e = keras.Variable(np.ones((4, 2), np.float32), name="kernel")
    unused = keras.Variable(1.0, name="unused")

    def loss():
        return tf.reduce_sum(w.value) * (rank + 1.0) + tf.reduce_sum(tf.gather(e.value, [rank, rank]))

    def gradient(sources, **kwargs):
        with tf.GradientTape() as plain:
            value = loss()
        return hvd.DistributedGradientTape(plain, **kwargs).gradient(value, sources)

    def numbers(gradients):
        return [None if g is None else tf.convert_to_tensor(g).numpy().tolist() for g in gradients]

    out = {
        "dense first": numbers(gradient([w, e])),
        "sparse first": numbers(gradient([e, w, unused])),
        "densified": numbers(gradient([w, e], sparse_as_dense=True)),
        "sum": numbers(gradient([w, e], op=hvd.Sum)),
        "one group": numbers(gradient([w, e], sparse_as_dense=True, groups=1)),
        "groups of variables": numbers(gradient([w, e], sparse_as_dense=True, groups=[[w, e]])),
        "one in a group": numbers(gradient([w, e], sparse_as_dense=True, groups=[[e]])),
        "predivided": numbers(gradient([w, e], gradient_predivide_factor=4.0)),
        "fp16": numbers(gradient([w, e], compression=hvd.Compression.fp16)),
        "is sparse": isinstance(gradient([e])[0], tf.IndexedSlices),
        "one variable": gradient(w).numpy().tolist(),
    }

    @tf.function
    def two_at_once():
        with tf.GradientTape() as first:
            a = loss()
        with tf.GradientTape() as second:
            b = 2.0 * loss()
        first, second = hvd.DistributedGradientTape(first), hvd.DistributedGradientTape(second)
        with tf.name_scope("one"):
            one = first.gradient(a, {"w": w})["w"]
        with tf.name_scope("two"):  # Horovod is told to leave scopes out of names
            return one, second.gradient(b, {"w": w})["w"]

    out["two at once"] = [g.numpy().tolist() for g in two_at_once()]
    layers = [keras.layers.Dense(1, use_bias=False), keras.layers.Dense(1, use_bias=False)]
    x = tf.fill([1, 1], rank + 1.0)
    for layer in layers:
        layer.build((1, 1))
        layer.kernel.assign([[1.0]])
    with tf.GradientTape() as plain:
        value = tf.reduce_sum(layers[0](x) + layers[1](x))
    partial_tape = hvd.PartialDistributedGradientTape(plain, local_layers=layers[0], scale_local_gradients=False)
    kernels = [layer.kernel for layer in layers]
    local, common = partial_tape.get_local_and_global_gradients(value, kernels)
    out["local"], out["global"] = float(local[0][1][0, 0]), float(common[0][1][0, 0])
    return out


def tape_in_fit() -> dict:
    """A ``train_step`` of one's own with a tape and a plain optimizer is a distributed training too."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as plain:
                loss = tf.reduce_mean((self(x) - y) ** 2)
            distributed = hvd.DistributedGradientTape(plain)
            self.optimizer.apply_gradients(
                zip(distributed.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
            )
            return {"loss": loss}

    keras.utils.set_random_seed(3)
    model = Model()
    model.compile(keras.optimizers.SGD(0.1))
    rng = np.random.default_rng(hvd.rank())
    x, y = rng.normal(size=(16, 2)).astype("float32"), rng.normal(size=(16, 1)).astype("float32")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    return {"sha": hvd.assert_equal_weights(model)}
