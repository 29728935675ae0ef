"""Accumulating, local and sparse gradients, compressions, Adasum: the optimizer on every rank."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from tests.optim.check_common import Adding, message, reductions


def aggregation(average: bool, local: int) -> dict:
    """Ten steps of four passes each; gradients of x are 1, of y -(rank + 1) in its first row, sparse."""
    passes, steps, pairs = 4, 10, 4
    optimizer = hvd.DistributedOptimizer(
        Adding(), backward_passes_per_step=passes, average_aggregated_gradients=average, sparse_as_dense=True
    )
    xs = [keras.Variable([0.0], name="x") for _ in range(pairs)]
    ys = [keras.Variable([1.0, 2.0], name="y") for _ in range(pairs)]
    for variable in [*xs[:local], *ys[:local]]:
        optimizer.register_local_var(variable)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.add_n(
                [x.value - (hvd.rank() + 1.0) * tf.gather(y.value, [0]) for x, y in zip(xs, ys, strict=True)]
            )
        variables = [*xs, *ys]
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    got = []
    for _ in range(steps):
        step()
        got.append([[float(x.numpy()[0]) for x in xs], [y.numpy().tolist() for y in ys]])
    return {"got": got, "iterations": int(optimizer.iterations), "reductions": reductions(optimizer)}


def aggregation_after_inf() -> dict:
    """An infinite gradient in the first cycle is gone in the second."""
    optimizer = hvd.DistributedOptimizer(Adding(), backward_passes_per_step=2)
    x = keras.Variable(0.0)
    values = []
    for gradient in (float("inf"), 1.0, 1.0, 2.0):
        if len(values) == 2:
            x.assign(0.0)
        optimizer.apply_gradients([(tf.constant(gradient), x)])
        values.append(float(x.numpy()))
    return {"values": values}


def embedding_aggregation() -> dict:
    """Sparse gradients, accumulated: Keras alone raises."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Embedding(50, 4), keras.layers.Dense(2)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.RMSprop(1e-2), backward_passes_per_step=2), "mse")
    rng = np.random.default_rng(hvd.rank())
    x, y = rng.integers(0, 50, (8, 3)), rng.normal(size=(8, 3, 2)).astype("float32")
    model(x)
    before = model.layers[0].get_weights()[0]
    changed = []
    for _ in range(3):
        model.train_on_batch(x, y)
        changed.append(bool((model.layers[0].get_weights()[0] != before).any()))
    return {"changed": changed, "reductions": reductions(model.optimizer), "sha": hvd.assert_equal_weights(model)}


def sparse_where_keras_raises() -> dict:
    """A loss scale of sparse gradients, where Keras raises, and accumulation, where it makes them dense."""
    out = {}
    for name, arguments in {"loss_scale_factor": {"loss_scale_factor": 8.0}, "passes": {}}.items():
        after = []
        for sparse in (True, False):
            table = keras.Variable(np.ones((4, 2), np.float32))
            passes = 2 if name == "passes" else 1
            optimizer = hvd.DistributedOptimizer(
                keras.optimizers.SGD(1.0, **arguments), backward_passes_per_step=passes
            )
            rows, values = [0, 0, 1 + hvd.rank()], [[3.0, 1.0], [1.0, 1.0], [1.0, 2.0]]
            slices = tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([4, 2]))
            for _ in range(2):
                optimizer.apply_gradients([(slices if sparse else tf.convert_to_tensor(slices), table)])
            after.append(table.numpy().tolist())
        out[name] = after
    return out


def passes_are_accumulation_steps() -> dict:
    """``backward_passes_per_step`` with the mean is Keras' own accumulation, clip included."""
    weights = []
    for mine in (False, True):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        plain = keras.optimizers.Adam(0.1, global_clipnorm=0.01, gradient_accumulation_steps=None if mine else 2)
        passes = {"backward_passes_per_step": 2, "average_aggregated_gradients": True} if mine else {}
        optimizer = hvd.DistributedOptimizer(plain, **passes)
        model.compile(optimizer, "mse")
        rng = np.random.default_rng(hvd.rank())
        for _ in range(4):
            model.train_on_batch(rng.normal(size=(4, 3)), rng.normal(size=(4, 2)))
        weights.append([w.tolist() for w in model.get_weights()])
    return {"keras": weights[0], "passes": weights[1], "reductions": reductions(model.optimizer)}


def passes_after_building() -> dict:
    """An optimizer that has steps behind it goes on where it was."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    plain = keras.optimizers.Adam(0.1)
    model.compile(plain, "mse")
    model.train_on_batch(np.ones((2, 3)), np.ones((2, 1)))
    optimizer = hvd.DistributedOptimizer(plain, backward_passes_per_step=2)
    model.compile(optimizer, "mse")
    iterations = [int(optimizer.iterations)]
    for _ in range(2):
        model.train_on_batch(np.ones((2, 3)), np.ones((2, 1)))
        iterations.append(int(optimizer.iterations))
    return {"iterations": iterations}


def partial(layers: int) -> dict:
    """Gradients of local layers stay this rank's own, divided by the number of ranks or not."""
    out = {}
    for scaled in (True, False):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(3)])
        local = model.layers[:layers]
        before = [w.copy() for w in model.get_weights()]
        optimizer = hvd.PartialDistributedOptimizer(Adding(), local_layers=local, scale_local_gradients=scaled)
        gradients = [tf.fill(v.shape, hvd.rank() + 1.0) for v in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        after = model.get_weights()
        out[f"scaled={scaled}"] = [round(float((a - b).mean()), 5) for a, b in zip(after, before, strict=True)]
    return out


def compressions() -> dict:
    """Every way to name a compression."""

    class Halved:
        @staticmethod
        def compress(tensor):
            return tensor * 0.5, tensor.dtype

        @staticmethod
        def decompress(tensor, ctx):
            return tf.cast(tensor * 2.0, ctx)

    out = {}
    for name, compression in {
        "none": hvd.Compression.none,
        "fp16": hvd.Compression.fp16,
        "name": "fp16",
        "own": Halved,
    }.items():
        optimizer = hvd.DistributedOptimizer(Adding(), compression=compression)
        x = keras.Variable([0.0, 0.0])
        optimizer.apply_gradients([(tf.constant([1.0, 3.0]) * (hvd.rank() + 1), x)])
        out[name] = x.numpy().tolist()
        out[f"allreduce {name}"] = hvd.allreduce(np.float32([hvd.rank()]), compression=compression).tolist()
    return out


def adasum() -> dict:
    """Adasum: parallel gradients are averaged, orthogonal ones are added."""
    if not hvd.mpi_enabled() or hvd.size() == 3:
        return {"error": message(lambda: hvd.allreduce(np.ones(2, np.float32), op=hvd.Adasum))}
    own = np.zeros(4, np.float32)
    own[hvd.rank()] = 1.0
    out = {
        "parallel": hvd.allreduce(np.ones(4, np.float32), op=hvd.Adasum).tolist(),
        "orthogonal": hvd.allreduce(own, op=hvd.Adasum).tolist(),
    }
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), op=hvd.Adasum), "mse")
    rng = np.random.default_rng(hvd.rank())
    model.fit(rng.normal(size=(32, 4)), rng.normal(size=(32, 3)), batch_size=8, verbose=0)
    return {**out, "sha": hvd.assert_equal_weights(model)}


def from_config() -> dict:
    """A configuration describes the plain optimizer, from the object and from its class."""
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.002))
    config = optimizer.get_config()
    copies = [optimizer.from_config(config), type(optimizer).from_config(config)]
    return {"equal": [copy.get_config() == config for copy in copies], "name": type(optimizer).__name__}
