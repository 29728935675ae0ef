"""More of what people do around ``fit``: averages of weights, evaluation in a callback, one epoch at a time."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from tests.people.common import GLOBAL_BATCH, ended, labels, numbers, sgd, shard


def _compiled(rate: float = 0.1) -> keras.Sequential:
    hvd.set_seed(1)
    hidden = keras.layers.Dense(6, activation="tanh")
    made = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, activation="softmax")])
    made.compile(sgd(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


class Averaging(keras.callbacks.Callback):
    """Stochastic weight averaging: the mean of the weights after each epoch is what training ends with."""

    def on_train_begin(self, logs=None):
        self.sums, self.epochs = [np.zeros_like(w) for w in self.model.get_weights()], 0

    def on_epoch_end(self, epoch, logs=None):
        self.sums, self.epochs = [s + w for s, w in zip(self.sums, self.model.get_weights(), strict=True)], epoch + 1

    def on_train_end(self, logs=None):
        self.model.set_weights([s / self.epochs for s in self.sums])


def averaged_weights(n: int) -> dict:
    made, x = _compiled(), numbers(n, 4)
    history = made.fit(shard(x, labels(x)), epochs=2, callbacks=[*hvd.callbacks.defaults(), Averaging()], verbose=0)
    return ended(made, history=history)


class Evaluating(keras.callbacks.Callback):
    def __init__(self, data):
        super().__init__()
        self.data, self.seen = data, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.model.evaluate(self.data, verbose=0))


def _evaluating(n: int, *, first: bool) -> dict:
    made, x = _compiled(), numbers(n, 4)
    evaluating = Evaluating(shard(x[:7], labels(x)[:7], shuffle=False))
    callbacks = hvd.callbacks.defaults()
    callbacks.insert(0 if first else len(callbacks), evaluating)
    history = made.fit(shard(x, labels(x)), epochs=2, callbacks=callbacks, verbose=0)
    return ended(made, history=history, seen=np.asarray(evaluating.seen))


def evaluating_before_hvdkit(n: int) -> dict:
    """``evaluate`` resets the metrics before ``MetricAverageCallback`` has read those of training."""
    return _evaluating(n, first=True)


def evaluating_after_hvdkit(n: int) -> dict:
    return _evaluating(n, first=False)


def one_fit_per_epoch(n: int) -> dict:
    made, x = _compiled(), numbers(n, 4)
    data, losses = shard(x, labels(x)), []
    for epoch in range(3):
        callbacks = hvd.callbacks.defaults()
        history = made.fit(data, initial_epoch=epoch, epochs=epoch + 1, callbacks=callbacks, verbose=0)
        losses += history.history["loss"]
    return ended(made, history={"loss": losses})


class RawLoss(keras.Model):
    """The oldest train step there is: it returns the loss of the batch as it is."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
        return {"raw_loss": loss}  # under the name "loss" Keras shows its own tracker, which saw nothing


def raw_loss_of_the_last_batch(n: int) -> dict:
    """What ``fit`` reports of it is the last step's, in which ranks may have no samples."""
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = RawLoss(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")]))
    made.compile(sgd(), "sparse_categorical_crossentropy")
    history = made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made, history=history)


class Attack(keras.Model):
    """Adversarial training: the gradient of the loss with respect to the inputs moves them."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = self.compute_loss(x, y, self(x, training=True))
        x = tf.stop_gradient(x + 0.05 * tf.sign(tape.gradient(loss, x)))
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
            scaled = self.optimizer.scale_loss(loss)
        grads = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
        self._loss_tracker.update_state(loss, sample_weight=tf.shape(x)[0])
        return self.compute_metrics(x, y, y_pred)


def adversarial_training(n: int) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    hidden = keras.layers.Dense(6, activation="tanh")
    made = Attack(keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, activation="softmax")]))
    made.compile(sgd(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made, history=history)


class Probe(keras.callbacks.Callback):
    """Linear evaluation: a small model on the frozen features, once an epoch."""

    def __init__(self, x, y, *, alone: bool):
        super().__init__()
        self.x, self.y, self.alone, self.scores, self.weights = x, y, alone, [], []

    def on_epoch_end(self, epoch, logs=None):
        features = keras.Model(self.model.inputs, self.model.layers[0].output).predict(self.x, verbose=0)
        probe = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, kernel_initializer="zeros")])
        if self.alone:
            if hvd.rank() == 0:
                with hvd.local_training():
                    probe.compile(
                        keras.optimizers.SGD(0.1),
                        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                        metrics=["accuracy"],
                    )
                    probe.fit(features, self.y, batch_size=GLOBAL_BATCH, shuffle=False, epochs=1, verbose=0)
            hvd.broadcast_variables(probe.weights)
        else:
            probe.compile(sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
            probe.fit(shard(features, self.y), epochs=1, callbacks=hvd.callbacks.defaults(), verbose=0)
        self.weights = probe.get_weights()
        self.scores.append(probe.evaluate(shard(features, self.y, shuffle=False), verbose=0) if not self.alone else [])


def _probed(n: int, *, alone: bool) -> dict:
    made, x = _compiled(), numbers(n, 4)
    probe = Probe(x, labels(x), alone=alone)
    callbacks = [*hvd.callbacks.defaults(), probe]
    history = made.fit(shard(x, labels(x)), epochs=2, callbacks=callbacks, verbose=0)
    return ended(made, probe.weights, history=history, scores=np.asarray(probe.scores))


def probe_on_one_rank(n: int) -> dict:
    return _probed(n, alone=True)


def probe_on_all_ranks(n: int) -> dict:
    return _probed(n, alone=False)


SCRIPTS = (
    probe_on_one_rank,
    probe_on_all_ranks,
    averaged_weights,
    evaluating_before_hvdkit,
    evaluating_after_hvdkit,
    one_fit_per_epoch,
    raw_loss_of_the_last_batch,
    adversarial_training,
)
