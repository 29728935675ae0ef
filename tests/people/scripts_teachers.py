"""Models that learn from models, and gradients inside gradients."""

from __future__ import annotations

import keras
import tensorflow as tf

import hvdkit as hvd
from tests.people.common import ended, labels, numbers, sgd, shard


def _net(name: str, outputs: int = 3, units: int = 8) -> keras.Sequential:
    hidden = keras.layers.Dense(units, activation="tanh", kernel_regularizer=keras.regularizers.L2(1e-3))
    return keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(outputs)], name=name)


class Distiller(keras.Model):
    """keras.io's knowledge distillation, for Keras 3."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False):
        soft = keras.ops.softmax(self.teacher(x, training=False) / 3.0, axis=1)
        own = self.student_loss(y, y_pred)
        distilled = self.distillation(soft, keras.ops.softmax(y_pred / 3.0, axis=1)) * 9.0
        return 0.1 * own + 0.9 * distilled

    def call(self, x):
        return self.student(x)


def distillation(n: int) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    teacher = _net("teacher", units=12)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(sgd(), entropy, metrics=["accuracy"])
    teacher.fit(shard(x, labels(x)), epochs=1, callbacks=hvd.callbacks.defaults(), verbose=0)
    teacher.trainable = False
    made = Distiller(_net("student"), teacher)
    made.compile(sgd(), metrics=[keras.metrics.SparseCategoricalAccuracy()])
    made.student_loss, made.distillation = entropy, keras.losses.KLDivergence()
    history = made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.student, made.teacher, history=history)


class MeanTeacher(keras.Model):
    """The teacher is a moving average of the student, moved in the train step or by a callback."""

    in_step = True

    def __init__(self):
        super().__init__()
        self.student, self.teacher = _net("student"), _net("teacher")
        self.teacher.set_weights(self.student.get_weights())
        self.teacher.trainable = False

    def call(self, x):
        return self.student(x)

    def follow(self):
        for slow, fast in zip(self.teacher.weights, self.student.weights, strict=True):
            slow.assign(0.9 * slow + 0.1 * fast)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            logits = self.student(x, training=True)
            consistency = tf.reduce_mean(tf.square(logits - self.teacher(x + 0.1 * tf.sin(x))))
            loss = self.loss_fn(y, logits) + consistency + sum(self.student.losses)
        grads = tape.gradient(loss, self.student.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.student.trainable_variables, strict=True))
        if self.in_step:
            self.follow()
        return {"loss": loss}


class Follow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.follow()


def _mean_teacher(n: int, *, in_step: bool) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = MeanTeacher()
    made.in_step = in_step
    made.compile(sgd())
    made.loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    callbacks = hvd.callbacks.defaults() + ([] if in_step else [Follow()])
    made.fit(shard(x, labels(x)), epochs=2, callbacks=callbacks, verbose=0)
    return ended(made.student, made.teacher)


def mean_teacher_in_step(n: int) -> dict:
    return _mean_teacher(n, in_step=True)


def mean_teacher_by_callback(n: int) -> dict:
    return _mean_teacher(n, in_step=False)


class BYOL(keras.Model):
    def __init__(self):
        super().__init__()
        self.online, self.target = _net("online", 4), _net("target", 4)
        self.predictor = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="predictor")
        self.target.set_weights(self.online.get_weights())

    def train_step(self, x):
        first, second = x + 0.1 * tf.sin(3 * x), x * (1 + 0.1 * tf.cos(x))
        unit = lambda v: tf.math.l2_normalize(v, axis=1)
        variables = self.online.trainable_variables + self.predictor.trainable_variables
        with tf.GradientTape() as tape:
            loss = 0.0
            for a, b in ((first, second), (second, first)):
                wanted = tf.stop_gradient(unit(self.target(b)))
                loss += tf.reduce_mean(2 - 2 * tf.reduce_sum(unit(self.predictor(self.online(a))) * wanted, axis=1))
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        for slow, fast in zip(self.target.weights, self.online.weights, strict=True):
            slow.assign(0.9 * slow + 0.1 * fast)
        return {"loss": loss}


def byol(n: int) -> dict:
    """Its target is trainable by Keras' book, and no gradient ever comes to it."""
    hvd.set_seed(1)
    made = BYOL()
    made.compile(sgd())
    made.fit(shard(numbers(n, 4)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.online, made.predictor, made.target)


class SAM(keras.Model):
    """Sharpness-aware: the gradient at the worst place nearby, by two tapes; both are the mean over the ranks."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        variables = self.inner.trainable_variables
        loss, grads = self.gradients_here(x, y, variables)
        norm = tf.linalg.global_norm(grads) + 1e-12
        before = [tf.identity(v) for v in variables]
        for v, g in zip(variables, grads, strict=True):
            v.assign_add(0.05 * g / norm)
        _, grads = self.gradients_here(x, y, variables)
        for v, b in zip(variables, before, strict=True):
            v.assign(b)
        self.optimizer.apply_gradients(zip(grads, variables, strict=True))
        return {"loss": loss}

    def gradients_here(self, x, y, variables):
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        return loss, hvd.DistributedGradientTape(tape).gradient(loss, variables)


def sam(n: int) -> dict:
    hvd.set_seed(1)
    x = numbers(n, 4)
    made = SAM(_net("inner"))
    made.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made)


class MAML(keras.Model):
    """A batch of tasks; for each, one inner step of gradient descent, and the loss behind it."""

    def __init__(self):
        super().__init__()
        self.w = self.add_weight(shape=(4, 1), initializer="glorot_uniform", name="w")
        self.b = self.add_weight(shape=(1,), initializer="zeros", name="b")

    def predict_with(self, w, b, x):
        return tf.tanh(tf.matmul(x, w)) + b

    def task_loss(self, task):
        support, query = task[:5], task[5:]
        targets = lambda x: tf.reduce_sum(tf.sin(x), axis=1, keepdims=True)
        w, b = tf.convert_to_tensor(self.w), tf.convert_to_tensor(self.b)
        with tf.GradientTape() as inner:
            inner.watch([w, b])
            loss = tf.reduce_mean(tf.square(self.predict_with(w, b, support) - targets(support)))
        dw, db = inner.gradient(loss, [w, b])
        adapted = self.predict_with(w - 0.1 * dw, b - 0.1 * db, query)
        return tf.reduce_mean(tf.square(adapted - targets(query)))

    def train_step(self, tasks):
        with tf.GradientTape() as outer:
            loss = tf.reduce_mean(tf.map_fn(self.task_loss, tasks))
        self.optimizer.apply_gradients(
            zip(outer.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
        )
        return {"loss": loss}


def maml(n: int) -> dict:
    hvd.set_seed(1)
    made = MAML()
    made.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05)))
    made.fit(shard(numbers(n, 10, 4)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made)


class Contrastive(keras.Model):
    """SimCLR: each sample against all other samples of the global batch, gathered from the ranks."""

    scaled = True

    def __init__(self):
        super().__init__()
        self.encoder = _net("encoder", 4)

    def call(self, x):
        return tf.math.l2_normalize(self.encoder(x), axis=1)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            first, second = self(x + 0.2 * tf.sin(3 * x), training=True), self(x * 1.1, training=True)
            if self.scaled:
                second = hvd.size() * second - tf.stop_gradient((hvd.size() - 1) * second)
            everyones = hvd.allgather(second, gradient="average" if self.scaled else "sum")
            here = hvd.rank() * tf.shape(first)[0] + tf.range(tf.shape(first)[0])
            similar = tf.matmul(first, everyones, transpose_b=True) / 0.5
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(here, similar))
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
        return {"contrast": loss}


def contrastive_over_ranks(n: int) -> dict:
    """Horovod's gradient of a gather is the mean over the ranks; one process has the sum, so it is scaled by hand."""
    return _contrastive(n, scaled=True)


def contrastive_as_gathered(n: int) -> dict:
    """With the gradient that one process has."""
    return _contrastive(n, scaled=False)


def _contrastive(n: int, *, scaled: bool) -> dict:
    hvd.set_seed(1)
    made = Contrastive()
    made.scaled = scaled
    made.compile(sgd())
    history = made.fit(shard(numbers(n, 4)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.encoder, history=history)


SCRIPTS = (
    contrastive_over_ranks,
    contrastive_as_gathered,
    distillation,
    mean_teacher_in_step,
    mean_teacher_by_callback,
    byol,
    sam,
    maml,
)
