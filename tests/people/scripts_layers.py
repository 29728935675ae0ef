"""Losses, metrics and layers of the user's own."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from tests.people.common import ended, labels, numbers, sgd, shard

layers, ops = keras.layers, keras.ops


class VAE(keras.Model):
    """keras.io's VAE; the noise is a sample's own. The weight of KL grows with a counter, or is a callback's."""

    counts = True

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="tanh"), layers.Dense(4)])
        self.decoder = keras.Sequential([keras.Input((2,)), layers.Dense(8, activation="tanh"), layers.Dense(4)])
        self.kl_weight = keras.Variable(0.0, trainable=False, name="kl_weight")
        self.step = keras.Variable(0, trainable=False, dtype="int32", name="step")
        self.trackers = [keras.metrics.Mean(name=name) for name in ("loss", "kl")]

    @property
    def metrics(self):
        return self.trackers

    def train_step(self, data):
        x, noise = data
        if self.counts:
            self.step.assign_add(1)
            self.kl_weight.assign(ops.minimum(1.0, ops.cast(self.step, "float32") / 6.0))
        with tf.GradientTape() as tape:
            mean, log_var = tf.split(self.encoder(x), 2, axis=1)
            rebuilt = self.decoder(mean + tf.exp(0.5 * log_var) * noise)
            error = tf.reduce_mean(tf.reduce_sum(tf.square(x - rebuilt), axis=1))
            kl = -0.5 * tf.reduce_mean(tf.reduce_sum(1 + log_var - tf.square(mean) - tf.exp(log_var), axis=1))
            loss = error + self.kl_weight * kl
        grads = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights, strict=True))
        for tracker, value in zip(self.trackers, (loss, kl), strict=True):
            tracker.update_state(value, sample_weight=tf.shape(x)[0])
        return {m.name: m.result() for m in self.trackers}


class Annealing(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.kl_weight.assign(0.5 * epoch)


def _vae(n: int, *, counts: bool) -> dict:
    hvd.set_seed(1)
    made = VAE()
    made.counts = counts
    made.compile(sgd(0.01))
    callbacks = hvd.callbacks.defaults() + ([] if counts else [Annealing()])
    history = made.fit(shard(numbers(n, 4), numbers(n, 2, seed=1)), epochs=2, callbacks=callbacks, verbose=0)
    return ended(made.encoder, made.decoder, history=history, kl_weight=float(made.kl_weight), step=int(made.step))


def vae_annealed_by_counter(n: int) -> dict:
    return _vae(n, counts=True)


def vae_annealed_by_callback(n: int) -> dict:
    return _vae(n, counts=False)


class Quantizer(layers.Layer):
    """keras.io's VQ-VAE: the code book is trained by losses that the layer adds."""

    def build(self, shape):
        self.book = self.add_weight(shape=(shape[-1], 5), initializer="random_uniform", name="book")

    def call(self, x):
        away = ops.sum(x**2, 1, keepdims=True) + ops.sum(self.book**2, 0) - 2 * ops.matmul(x, self.book)
        quantized = ops.take(ops.transpose(self.book), ops.argmin(away, axis=1), axis=0)
        self.add_loss(0.25 * ops.mean((ops.stop_gradient(quantized) - x) ** 2))
        self.add_loss(ops.mean((quantized - ops.stop_gradient(x)) ** 2))
        return x + ops.stop_gradient(quantized - x)


def vq_vae(n: int) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = keras.Sequential([keras.Input((4,)), layers.Dense(2), Quantizer(), layers.Dense(4)])
    made.compile(sgd(0.05), "mse")
    return ended(made, history=made.fit(shard(x, x), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0))


def _activity(n: int, *extra) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = keras.Sequential([keras.Input((4,)), *extra, layers.Dense(3, activation="softmax")])
    made.compile(sgd(), "sparse_categorical_crossentropy")
    return ended(made, history=made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0))


def activity_regularizer(n: int) -> dict:
    """A sum over the outputs, which Keras 3 divides by the samples of the batch."""
    return _activity(n, layers.Dense(6, activation="tanh", activity_regularizer=keras.regularizers.L2(1e-3)))


def activity_regularization_layer(n: int) -> dict:
    return _activity(n, layers.Dense(6, activation="tanh"), layers.ActivityRegularization(l2=1e-3))


class Penalty(layers.Layer):
    """Of Keras' guide: a mean over the batch."""

    def call(self, x):
        self.add_loss(1e-2 * ops.mean(ops.square(x)))
        return x


def add_loss_of_a_mean(n: int) -> dict:
    return _activity(n, layers.Dense(6, activation="tanh"), Penalty())


class Watched(layers.Layer):
    """Keeps a moving mean of what passes, as a batch norm of one's own does; training does not depend on it."""

    def build(self, shape):
        self.moving_mean = self.add_weight(shape=(shape[-1],), trainable=False, name="moving_mean")
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x, training=False):
        if training:
            self.moving_mean.assign(0.9 * self.moving_mean + 0.1 * ops.mean(x, axis=0))
            return x * self.scale
        return (x - self.moving_mean) * self.scale


def moving_statistics(n: int) -> dict:
    """The statistics are each rank's own, as batch norm's; the weights are not."""
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = keras.Sequential([keras.Input((4,)), Watched(), layers.Dense(3, activation="softmax")])
    made.compile(sgd(), "sparse_categorical_crossentropy")
    history = made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.trainable_weights, history=history)


class Branches(keras.Model):
    """Layers in lists and dicts, that nobody builds by hand."""

    def __init__(self):
        super().__init__()
        self.blocks = [[layers.Dense(6, activation="tanh"), layers.Dropout(0.0)] for _ in range(2)]
        self.heads = {"kind": layers.Dense(3), "amount": layers.Dense(1)}

    def call(self, inputs, training=False):
        x = ops.concatenate([inputs["a"], inputs["b"]], axis=1)
        for dense, drop in self.blocks:
            x = drop(dense(x), training=training)
        return {name: head(x) for name, head in self.heads.items()}


def lists_and_dicts(n: int) -> dict:
    hvd.set_seed(1)
    a, b = numbers(n, 2), numbers(n, 3, seed=1)
    made = Branches()
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(sgd(0.05), {"kind": entropy, "amount": "mse"}, loss_weights={"kind": 1.0, "amount": 0.5})
    data = shard({"a": a, "b": b}, {"kind": labels(a), "amount": b[:, :1]})
    return ended(made, history=made.fit(data, epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0))


class TruePositives(keras.metrics.Metric):
    """Of Keras' guide; its variable is a sum over samples."""

    sum_over_ranks = True

    def __init__(self, name="categorical_true_positives", **kwargs):
        super().__init__(name=name, **kwargs)
        self.true_positives = self.add_variable((), initializer="zeros", name="ctp")

    def update_state(self, y_true, y_pred, sample_weight=None):
        hits = ops.cast(ops.equal(ops.reshape(y_true, (-1,)), ops.cast(ops.argmax(y_pred, 1), y_true.dtype)), "float32")
        self.true_positives.assign_add(ops.sum(hits))

    def result(self):
        return self.true_positives * 1.0  # not the variable itself: Keras would show what validation made of it


class Tracked(keras.Model):
    """Of Keras' guide: trackers updated in the train step, sample by sample and batch by batch."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.mae = keras.metrics.MeanAbsoluteError(name="mae")
        self.hits = TruePositives()
        self.plain_mean = keras.metrics.Mean(name="mean_of_batches")

    def call(self, x):
        return self.inner(x)

    by_batches = False

    @property
    def metrics(self):
        return [self.mae, self.hits, *([self.plain_mean] if self.by_batches else [])]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, y_pred)
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
        self.mae.update_state(tf.one_hot(y, 3), y_pred)
        self.hits.update_state(y, y_pred)
        self.plain_mean.update_state(loss)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        x, y = data
        y_pred = self(x, training=False)
        self.mae.update_state(tf.one_hot(y, 3), y_pred)
        self.hits.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


def _tracked(n: int, *, by_batches: bool) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = Tracked(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))
    made.by_batches = by_batches
    made.compile(sgd())
    held_out = None if by_batches else shard(x[:7], labels(x[:7]), shuffle=False)
    callbacks = hvd.callbacks.defaults()
    history = made.fit(shard(x, labels(x)), validation_data=held_out, epochs=2, callbacks=callbacks, verbose=0)
    return ended(made.inner, history=history)


def trackers_in_train_step(n: int) -> dict:
    return _tracked(n, by_batches=False)


def mean_tracker_of_batch_losses(n: int) -> dict:
    """``loss_tracker.update_state(loss)``, as all of keras.io has it: a mean of batches, not of samples."""
    return _tracked(n, by_batches=True)


def weights_of_samples_and_classes(n: int) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    made.compile(sgd(), "sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["accuracy"])
    weight = np.linspace(0.2, 2.0, n).astype("float32")
    data = shard(x, labels(x), sample_weight=weight, class_weight={0: 1.0, 1: 2.0, 2: 0.5})
    history = made.fit(data, validation_data=data, epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made, history=history)


SCRIPTS = (
    vae_annealed_by_counter,
    vae_annealed_by_callback,
    vq_vae,
    activity_regularizer,
    activity_regularization_layer,
    add_loss_of_a_mean,
    moving_statistics,
    lists_and_dicts,
    trackers_in_train_step,
    mean_tracker_of_batch_losses,
    weights_of_samples_and_classes,
)
