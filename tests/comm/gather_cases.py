"""Contrastive losses over the embeddings of all ranks, and what the same steps are in one process."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

ROWS = 12
STEPS = 3


def rows() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(ROWS, 5)).astype("float32")


def loss_of(queries: tf.Tensor, keys: tf.Tensor, first: int) -> tf.Tensor:
    """Each query is to find the key beside it: rows 0 and 1 belong together, 2 and 3, ..."""
    mine = first + tf.range(tf.shape(queries)[0])
    logits = queries @ tf.transpose(keys) - 1e9 * tf.one_hot(mine, ROWS)
    partners = tf.where(mine % 2 == 0, mine + 1, mine - 1)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(partners, logits))


class Contrastive(keras.Model):
    """Its step computes the loss of its own rows against all ranks' rows, or of all rows against all."""

    def __init__(self, usage: str, gradient: str):
        super().__init__()
        keras.utils.set_random_seed(3)
        self.usage, self.gradient = usage, gradient
        self.inner = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(4)]
        )
        self.build((None, 5))

    def call(self, x):
        return self.inner(x)

    def loss_on(self, x):
        own = self(x)
        everyones = hvd.allgather(own, gradient=self.gradient)
        if self.usage == "all rows":
            return loss_of(everyones, everyones, 0)
        return loss_of(own, everyones, hvd.rank() * (ROWS // hvd.size()))

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.loss_on(data)
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights, strict=True)
        )
        return {"loss": loss}


def mine() -> np.ndarray:
    each = ROWS // hvd.size()
    return rows()[hvd.rank() * each : (hvd.rank() + 1) * each]


def trained(usage: str, gradient: str, op: str = "average") -> list:
    """The weights after some steps of ``fit``."""
    made = Contrastive(usage, gradient)
    made.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.5), op=op))
    made.fit(mine(), batch_size=ROWS // hvd.size(), epochs=STEPS, shuffle=False, verbose=0)
    return [w.numpy() for w in made.weights]


def gradients(usage: str, gradient: str, *, in_graph: bool) -> list:
    """The reduced gradients of one step of a loop of one's own."""
    made = Contrastive(usage, gradient)

    def step(x):
        with hvd.DistributedGradientTape(tf.GradientTape()) as tape:
            loss = made.loss_on(x)
        return tape.gradient(loss, made.trainable_weights)

    return [g.numpy() for g in (tf.function(step) if in_graph else step)(tf.constant(mine()))]


def of_uneven_rows(gradient: str | None, dtype: str, process_set=None) -> np.ndarray:
    """The gradient of sum(c * gathered), where c is each rank's own, with respect to this rank's rows."""
    x = tf.ones((hvd.rank() + 1, 2), dtype)
    more = {} if gradient is None else {"gradient": gradient}
    with tf.GradientTape() as tape:
        tape.watch(x)
        everyones = hvd.allgather(x, process_set=process_set, **more)
        weights = tf.cast((hvd.rank() + 1) * tf.range(1, tf.shape(everyones)[0] + 1), dtype)[:, None]
        loss = tf.reduce_sum(weights * everyones)
    found = tape.gradient(loss, x)
    assert found is not None, "no gradient came through"
    return tf.cast(found, tf.float32).numpy()


def all_cases() -> dict:
    error = None
    try:
        hvd.allgather(tf.ones((2, 2)), gradient="mean")
    except hvd.errors.UsageError as refused:
        error = str(refused)
    found = {
        "error": error,
        "average, summed": trained("all rows", "average", "sum"),
        "uneven": {str(g): of_uneven_rows(g, "float32") for g in (None, "average", "sum")},
        "halves": {d: of_uneven_rows("sum", d) for d in ("float16", "bfloat16", "float64")},
        "numbers": hvd.allgather(np.arange(2), gradient="sum").tolist(),
        "whole": hvd.allgather(tf.range(2), gradient="sum").numpy().tolist(),
    }
    for usage in ("own rows", "all rows"):
        found[usage] = {
            "eager": gradients(usage, "sum", in_graph=False),
            "graph": gradients(usage, "sum", in_graph=True),
            "average": gradients(usage, "average", in_graph=True),
            "fit": trained(usage, "sum"),
        }
    return found
