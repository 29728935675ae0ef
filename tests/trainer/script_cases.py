"""What people's own scripts do, on every rank and in one process with the whole batch: both come out the same."""

from __future__ import annotations

import types

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

GLOBAL_BATCH = 12
SAMPLES = 5 * GLOBAL_BATCH + 1  # in the last step of an epoch one rank has one sample, and the others have none
EPOCHS = 3


def samples(n: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(0)
    x = rng.normal(size=(n, 3)).astype("float32")
    return x, (x.sum(1, keepdims=True) + rng.normal(size=(n, 1))).astype("float32")


def sharded(n: int = SAMPLES, **how):
    x, y = samples(n)
    return hvd.data.shard(x, y, batch_size=GLOBAL_BATCH // hvd.size(), shuffle=False, **how)


def fit(model: keras.Model, n: int = SAMPLES, epochs: int = EPOCHS, **arguments):
    callbacks = [*hvd.callbacks.defaults(), *arguments.pop("callbacks", [])]
    return model.fit(sharded(n), epochs=epochs, verbose=0, callbacks=callbacks, **arguments)


def sgd(rate: float = 0.1, **how):
    return hvd.DistributedOptimizer(keras.optimizers.SGD(rate, **how))


def values(model: keras.Model, *others) -> dict:
    return {
        "weights": [np.asarray(w.numpy()) for w in model.trainable_variables],
        "others": [np.asarray(o.numpy()) for o in others],
    }


class Counting(keras.Model):
    """Counts in every way a script may, and anneals its loss by one of the counters."""

    def __init__(self, eager: bool = False):
        super().__init__()
        self.dense = keras.layers.SpectralNormalization(keras.layers.Dense(1))
        make = lambda name, **how: self.add_weight(shape=(), initializer="zeros", trainable=False, name=name, **how)
        self.calls, self.steps, self.nested = make("calls"), make("steps", dtype="int32"), make("nested")
        self.raw = tf.Variable(0.0, trainable=False)
        self.average = self.add_weight(shape=(3, 1), initializer="zeros", trainable=False, name="average")
        self.mean = self.add_weight(shape=(), initializer="zeros", trainable=False, name="mean")

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1.0)
        return self.dense(x, training=training)

    @tf.function
    def count(self):
        tf.cond(self.steps % 2 == 0, lambda: self.nested.assign_add(1.0), lambda: self.nested.assign_add(2.0))

    def train_step(self, data):
        x, y = data
        self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(x))  # each rank's own: follows the samples
        with tf.GradientTape() as tape:
            weight = 1.0 / (1.0 + self.calls)
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True)) * weight
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
        )
        self.steps.assign_add(1)
        self.raw.assign_add(1.0)
        self.count()
        kernel = self.trainable_variables[0]
        self.average.assign(0.9 * self.average + 0.1 * kernel)  # a teacher
        return {"loss": loss}


def counters(**how) -> dict:
    keras.utils.set_random_seed(3)
    model = Counting()
    model.compile(sgd(), "mse", **how)
    fit(model)
    spectral = [v for v in model.dense.non_trainable_variables if "vector" in v.name]
    made = values(model, model.calls, model.steps, model.nested, model.raw, model.average, *spectral)
    return {**made, "mean": float(model.mean.numpy())}


class Accumulating(keras.Model):
    """Adds up the gradients of two steps, and applies them in the second."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.dense.build((None, 3))
        self.n = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="n")
        self.sums = [
            self.add_weight(shape=v.shape, initializer="zeros", trainable=False, name=f"sum{i}")
            for i, v in enumerate(self.dense.trainable_variables)
        ]

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        for total, gradient in zip(self.sums, tape.gradient(loss, self.dense.trainable_variables), strict=True):
            total.assign_add(gradient / 2)
        self.n.assign_add(1)
        tf.cond(self.n % 2 == 0, self.update, lambda: None)
        return {"loss": loss}

    def update(self):
        pairs = zip([s.value for s in self.sums], self.dense.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        for total in self.sums:
            total.assign(tf.zeros_like(total.value))


def accumulation(n: int) -> dict:
    keras.utils.set_random_seed(3)
    model = Accumulating()
    model.compile(sgd(0.3), "mse")
    fit(model, n)
    return values(model, model.n)


class Holding(keras.Model):
    """Two parts, each with an optimizer of its own, held in this or that way."""

    def __init__(self, way: str):
        super().__init__()
        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(1)
        self.first.build((None, 3)), self.second.build((None, 4))
        adam = lambda: hvd.DistributedOptimizer(keras.optimizers.Adam(0.02))
        one, two = adam(), adam()
        if way == "dict":
            self.tools = {"one": one, "others": {"two": two}}
        elif way == "list":
            self.tools = [[one], (two,)]
        elif way == "sub-model":
            self.first.optimizer, self.second.my_own = one, two
        elif way == "object":
            self.tools = types.SimpleNamespace(one=one, two=two)
        elif way == "closure":
            self.tools = [one]
            self.outside = lambda: two
        self.pick = {
            "dict": lambda: (self.tools["one"], self.tools["others"]["two"]),
            "list": lambda: (self.tools[0][0], self.tools[1][0]),
            "sub-model": lambda: (self.first.optimizer, self.second.my_own),
            "object": lambda: (self.tools.one, self.tools.two),
            "closure": lambda: (self.tools[0], self.outside()),
        }[way]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean((self.second(keras.ops.tanh(self.first(x))) - y) ** 2)
        for optimizer, part in zip(self.pick(), (self.first, self.second), strict=True):
            weights = part.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def held(way: str, directory: str) -> dict:
    """Four epochs at once, and two that go on from a checkpoint of two."""

    def trained(epochs, *callbacks):
        keras.utils.set_random_seed(3)
        model = Holding(way)
        model.compile()
        fit(model, epochs=epochs, callbacks=callbacks)
        return values(model)["weights"]

    saving = lambda: hvd.callbacks.CheckpointCallback(f"{directory}/{way}-{hvd.size()}", every="epoch")
    straight = trained(4)
    trained(2, saving())
    return {"weights": straight, "resumed": trained(4, saving())}


class WithVariable(keras.Model):
    """A ``tf.Variable``, which Keras 3 does not track."""

    def __init__(self, same: bool, trainable: bool):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        start = 1.0 if same else 2.0 + hvd.rank()
        self.scale = tf.Variable(start, trainable=trainable)
        self.parts = [types.SimpleNamespace(shift=tf.Variable([start], trainable=trainable))]

    def call(self, x):
        return self.dense(x) * self.scale + self.parts[0].shift


def tensorflow_variables(trainable: bool) -> dict:
    keras.utils.set_random_seed(3)
    model = WithVariable(False, trainable)
    model.compile(sgd(0.01), "mse")
    fit(model, 48)
    x, _ = samples(4)
    return {"weights": [model.scale.numpy(), model.parts[0].shift.numpy(), model.predict(x, verbose=0)]}


def swapped(order: bool, directory: str) -> dict:
    """Averages in the place of the weights for a time, before or after the callback that saves."""

    def trained(epochs, *, save):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        adam = keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.8)
        model.compile(hvd.DistributedOptimizer(adam), "mse")
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        saving = hvd.callbacks.CheckpointCallback(f"{directory}/swap-{hvd.size()}-{order}", every="epoch")
        fit(model, epochs=epochs, callbacks=[c for c in (swap, saving)[:: 1 if order else -1] if save or c is swap])
        return values(model)["weights"]

    straight = trained(4, save=False)
    trained(2, save=True)
    return {"weights": straight, "resumed": trained(4, save=True)}


class Kept(keras.callbacks.Callback):
    """A callback with a state of its own: a number, and an average of the weights that it keeps."""

    def __init__(self):
        super().__init__()
        self.epochs, self.shadow = 0, None

    def on_train_begin(self, logs=None):
        self.epochs, self.shadow = 0, [np.array(w) for w in self.model.get_weights()]

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.shadow = [0.5 * s + 0.5 * w for s, w in zip(self.shadow, self.model.get_weights(), strict=True)]


def callbacks_of_their_own(directory: str) -> dict:
    """The best weights of EarlyStopping, a rate that a callback multiplies, and a callback with arrays."""

    def trained(epochs, *, save):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(sgd(0.2), "mse")
        best = keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True)
        falling = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7)
        kept = Kept()
        saving = [hvd.callbacks.CheckpointCallback(f"{directory}/kept-{hvd.size()}", every="epoch")] if save else []
        fit(model, epochs=epochs, callbacks=[best, *saving, falling, kept])
        return [*values(model)["weights"], *kept.shadow, np.float64(kept.epochs)]

    straight = trained(4, save=False)
    trained(2, save=True)
    return {"weights": straight, "resumed": trained(4, save=True)}


def by_hand() -> dict:
    """Callbacks driven as a GAN's loop does it."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(sgd(0.05), "mse")
    rate = hvd.callbacks.LearningRateScheduleCallback(0.05, lambda epoch: 0.5**epoch)
    callbacks = keras.callbacks.CallbackList([*hvd.callbacks.defaults(), rate])
    callbacks.set_model(model)
    callbacks.on_train_begin()
    x, y = samples(48)
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for step in range(4):
            callbacks.on_train_batch_begin(step)
            part = slice(step * 12 + hvd.rank() * 12 // hvd.size(), step * 12 + (hvd.rank() + 1) * 12 // hvd.size())
            logs = model.train_on_batch(x[part], y[part], return_dict=True)
            callbacks.on_train_batch_end(step, logs)
        callbacks.on_epoch_end(epoch, dict(logs))
    callbacks.on_train_end()
    return values(model)


def everything(directory: str) -> dict:
    """All cases that have a value in one process."""
    return {
        "counters": counters(),
        "counters, several steps at once": counters(steps_per_execution=2),
        "accumulation, uneven": accumulation(2 * GLOBAL_BATCH + 9),
        "accumulation, empty": accumulation(SAMPLES),
        **{f"held in a {way}": held(way, directory) for way in ("dict", "list", "sub-model", "object")},
        "a tf.Variable": tensorflow_variables(True),
        "a tf.Variable that is not trained": tensorflow_variables(False),
        "swapped, saved after": swapped(True, directory),
        "swapped, saved before": swapped(False, directory),
        "callbacks of their own": callbacks_of_their_own(directory),
        "by hand": by_hand(),
    }
