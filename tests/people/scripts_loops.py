"""Loops of the user's own, several fits in one process, and callbacks that do more than look on."""

from __future__ import annotations

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from tests.people.common import GLOBAL_BATCH, ended, labels, numbers, sgd, shard

layers = keras.layers


def _classifier(outputs: int = 3) -> keras.Sequential:
    return keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="tanh"), layers.Dense(outputs)])


def _entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def loop_with_tape(n: int) -> dict:
    """Keras' guide to a training loop from scratch, with metrics of its own."""
    hvd.set_seed(1)
    x = numbers(n, 4)
    made, optimizer, loss_fn = _classifier(), keras.optimizers.Adam(1e-2), _entropy()
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    hvd.broadcast_variables(made.weights)

    @tf.function
    def train_step(x, y, share):
        with tf.GradientTape() as tape:
            logits = made(x, training=True)
            loss = loss_fn(y, logits) * share
        grads = hvd.DistributedGradientTape(tape).gradient(loss, made.trainable_weights)
        optimizer.apply(grads, made.trainable_weights)
        accuracy.update_state(y, logits, sample_weight=tf.fill(tf.shape(y), tf.cast(share > 0, tf.float32)))
        return loss

    data, losses = shard(x, labels(x)), []
    for epoch in range(2):
        for (xb, yb), share in data.batches(epoch):
            losses.append(float(hvd.allreduce(train_step(xb, yb, share))))
    seen = [hvd.allreduce(v.value, op=hvd.Sum).numpy() for v in accuracy.variables]
    hvd.assert_equal_weights(made)
    return ended(made, losses=losses, accuracy=seen[0] / seen[1])


class Accumulating(keras.Model):
    """Gradients of two batches added up in variables of the model, and applied together."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.sums = [self.add_weight(shape=w.shape, initializer="zeros", trainable=False) for w in inner.weights]
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        self.count.assign_add(1)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        for kept, g in zip(self.sums, tape.gradient(loss, self.inner.trainable_weights), strict=True):
            kept.assign_add(g)
        tf.cond(self.count % 2 == 0, self.apply_sums, lambda: None)
        return {"loss": loss}

    def apply_sums(self):
        self.optimizer.apply([s / 2.0 for s in self.sums], self.inner.trainable_weights)
        for kept in self.sums:
            kept.assign(tf.zeros_like(kept))


def own_accumulation(n: int) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = Accumulating(_classifier())
    made.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), _entropy())
    made.optimizer.build(made.inner.trainable_weights)
    made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.inner)


class Clipping(keras.Model):
    """Gradients clipped by hand between tape and optimizer, as in most reinforcement learning scripts."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        tape = hvd.DistributedGradientTape(tape)
        grads = tape.gradient(loss, self.trainable_variables)
        grads, _ = tf.clip_by_global_norm(grads, 0.1)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
        return {"loss": loss}


def clipped_by_hand_behind_a_tape(n: int) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = Clipping(_classifier())
    made.compile(keras.optimizers.SGD(0.1), _entropy())
    made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.inner)


class WithHelper(keras.Model):
    """The work is in ``tf.function`` helpers, which keep what they were traced with."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    applies = False

    @tf.function(input_signature=[tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1), tf.int32)])
    def gradients_of(self, x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(y, self.inner(x, training=True), from_logits=True)
            )
        grads = tape.gradient(loss, self.inner.trainable_variables)
        if self.applies:
            self.optimizer.apply(grads, self.inner.trainable_variables)
        return loss, grads

    def train_step(self, data):
        x, y = data
        loss, grads = self.gradients_of(x, y)
        if not self.applies:
            self.optimizer.apply(grads, self.inner.trainable_variables)
        return {"loss": loss}


def _with_helper(n: int, *, applies: bool) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    y = labels(x)[:, None]
    made = WithHelper(_classifier())
    made.applies = applies
    made.compile(sgd(0.05))
    made.optimizer.build(made.inner.trainable_variables)
    # First on full batches, then on all samples: another kind of batch, and so another trace of the train step.
    full, callbacks = n // GLOBAL_BATCH * GLOBAL_BATCH, hvd.callbacks.defaults()
    made.fit(shard(x[:full], y[:full]), epochs=1, callbacks=callbacks, verbose=0)
    made.fit(shard(x, y), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.inner)


def helper_function(n: int) -> dict:
    return _with_helper(n, applies=False)


def helper_function_that_applies(n: int) -> dict:
    return _with_helper(n, applies=True)


def k_fold(n: int) -> dict:
    x = numbers(n, 4)
    y, folds = labels(x), np.array_split(np.arange(n), 3)
    weights, scores = [], []
    for i, held_out in enumerate(folds):
        rest = np.concatenate(folds[:i] + folds[i + 1 :])
        keras.backend.clear_session()
        hvd.set_seed(i)
        made = _classifier()
        made.compile(sgd(), _entropy(), metrics=["accuracy"])
        made.fit(shard(x[rest], y[rest]), epochs=1, callbacks=hvd.callbacks.defaults(), verbose=0)
        scores.append(made.evaluate(shard(x[held_out], y[held_out], shuffle=False), verbose=0))
        weights += made.get_weights()
    return ended(weights, scores=np.asarray(scores))


def transfer_learning(n: int) -> dict:
    """Train a head on a frozen base, then all of it with a smaller rate."""
    hvd.set_seed(1)
    x = numbers(n, 4)
    norm = layers.BatchNormalization()
    base = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="tanh"), norm], name="base")
    base.trainable = False
    read = keras.Input((4,))
    made = keras.Model(read, layers.Dense(3)(base(read, training=False)))
    made.compile(sgd(), _entropy(), metrics=["accuracy"])
    first = made.fit(shard(x, labels(x)), epochs=1, callbacks=hvd.callbacks.defaults(), verbose=0).history
    base.trainable, norm.trainable = True, False  # batch norm goes on with the statistics it came with
    made.compile(sgd(0.01), _entropy(), metrics=["accuracy"])
    second = made.fit(shard(x, labels(x)), epochs=2, initial_epoch=1, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made, history={k: first[k] + v for k, v in second.history.items()})


def plateau_stopping_checkpoint(n: int) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = _classifier()
    made.compile(sgd(0.5), _entropy(), metrics=["accuracy"])
    callbacks = [
        *hvd.callbacks.defaults(),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.3, min_delta=0.05),
        keras.callbacks.EarlyStopping(patience=2, start_from_epoch=1, restore_best_weights=True),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "best.weights.h5"
        if hvd.rank() == 0:
            callbacks.append(keras.callbacks.ModelCheckpoint(path, save_best_only=True, save_weights_only=True))
        held_out = shard(x[: n // 3], labels(x[: n // 3]), shuffle=False)
        history = made.fit(shard(x, labels(x)), validation_data=held_out, epochs=8, callbacks=callbacks, verbose=0)
        last = made.get_weights()
        if hvd.rank() == 0:
            made.load_weights(path)
    hvd.broadcast_variables(made.weights)
    return ended(last, made, history=history)


def _train_on_batch(n: int, **params) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = _classifier()
    made.compile(sgd(), _entropy())
    hvd.broadcast_variables(made.weights)
    data = shard(x, labels(x))
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    callbacks = keras.callbacks.CallbackList([*hvd.callbacks.defaults(), rate], model=made, **params)
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for step, ((xb, yb), share) in enumerate(data.batches(epoch)):
            callbacks.on_train_batch_begin(step)
            logs = made.train_on_batch(xb, yb, sample_weight=tf.fill(tf.shape(yb), share), return_dict=True)
            callbacks.on_train_batch_end(step, logs)
        callbacks.on_epoch_end(epoch, dict(logs))
        made.reset_metrics()
    callbacks.on_train_end()
    hvd.assert_equal_weights(made)
    return ended(made)


def train_on_batch(n: int) -> dict:
    """A loop over ``train_on_batch`` with callbacks driven by hand; a batch's share goes in as its weight."""
    return _train_on_batch(n, epochs=2, steps=-(-n // GLOBAL_BATCH), verbose=0)


def callbacks_without_parameters(n: int) -> dict:
    return _train_on_batch(n)


SCRIPTS = (
    loop_with_tape,
    own_accumulation,
    clipped_by_hand_behind_a_tape,
    helper_function,
    helper_function_that_applies,
    k_fold,
    transfer_learning,
    plateau_stopping_checkpoint,
    train_on_batch,
    callbacks_without_parameters,
)
