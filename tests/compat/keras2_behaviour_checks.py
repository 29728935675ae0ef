"""What Keras 2 did under names that Keras 3 still has, one check each; run by test_compat.py as idiom_checks.py is."""

import copy
import logging
import os
import pickle
import tempfile

import keras
import numpy as np
import tensorflow as tf
from check_runner import check, run_checks

import hvdkit
from hvdkit.utils.log import get_logger

hvdkit.init()
x, y = np.ones((4, 1), "float32"), np.full((4, 1), 5.0, "float32")
TOLD = []


class Listener(logging.Handler):
    def emit(self, record):
        TOLD.append(record.getMessage())


get_logger().addHandler(Listener())


def told(*words):
    return len([line for line in TOLD if all(word in line for word in words)])


def model(*layers, **arguments):
    made = keras.Sequential([*layers, keras.layers.Dense(1)])
    made.compile("sgd", "mse", **arguments)
    return made


@check
def period_of_a_subclass():
    class Own(keras.callbacks.ModelCheckpoint):
        ended = 0

        def on_epoch_end(self, epoch, logs=None):
            self.ended += 1
            super().on_epoch_end(epoch, logs)

    with tempfile.TemporaryDirectory() as folder:
        own = Own(folder + "/{epoch}.keras", period=2)
        model().fit(x, y, epochs=5, verbose=0, callbacks=[own])
        assert sorted(os.listdir(folder)) == ["2.keras", "4.keras"]
    assert own.ended == 5 and own.period == 2


@check
def period_of_a_copy():
    with tempfile.TemporaryDirectory() as folder:
        one = keras.callbacks.ModelCheckpoint(folder + "/{epoch}.keras", period=3)
        two = pickle.loads(pickle.dumps(copy.deepcopy(one)))
        two.filepath = folder + "/two-{epoch}.keras"
        model().fit(x, y, epochs=4, verbose=0, callbacks=[one, two])
        assert sorted(os.listdir(folder)) == ["3.keras", "two-3.keras"]


@check
def period_counts_no_batches():
    with tempfile.TemporaryDirectory() as folder:
        often = keras.callbacks.ModelCheckpoint(folder + "/{epoch}-{batch}.keras", save_freq=2, period=9)
        model().fit(x, y, batch_size=1, verbose=0, callbacks=[often])
        assert sorted(os.listdir(folder)) == ["1-2.keras", "1-4.keras"]


def resetting(base):
    class Least(base):
        def __init__(self, name="least", **kwargs):
            super().__init__(name=name, **kwargs)
            self.least = self.add_weight("least", (), initializer=keras.initializers.Constant(1e9))
            self.calls = 0

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.least.assign(tf.minimum(self.least, tf.reduce_min(y_true)))

        def result(self):
            return self.least

        def reset_states(self):
            self.calls += 1
            super().reset_states()
            self.least.assign(1e9)

    return Least


@check
def metrics_that_reset_their_own_way():
    for base in (keras.metrics.Metric, keras.metrics.Mean, resetting(keras.metrics.Metric)):
        metric = resetting(base)()
        assert model(metrics=[metric]).fit(x, y, epochs=2, verbose=0).history["least"] == [5.0, 5.0]
        for reset in (metric.reset_state, metric.reset_states):
            before = metric.calls
            reset()
            assert metric.calls - before == (2 if base.__name__ == "Least" else 1) and float(metric.least) == 1e9
    assert told("reset_states", "def reset_state(self)") == 1


@check
def metrics_that_reset_in_both():
    class Both(resetting(keras.metrics.Metric)):
        def reset_state(self):
            self.reset_states()

    class Alias(keras.metrics.Mean):
        def reset_states(self):
            self.reset_state()

    metric = Both()
    metric.reset_state()
    assert metric.calls == 1 and float(metric.least) == 1e9
    for reset in (lambda metric: metric.reset_state(), lambda metric: metric.reset_states()):
        alias = Alias()
        alias.update_state(3.0)
        reset(alias)
        assert float(alias.total) == 0.0


@check
def dtype_of_categories():
    for module in (keras.utils, tf.keras.utils):
        assert module.to_categorical([0, 1]).dtype == module.to_categorical(y=[1], dtype="float32").dtype == "float32"
        assert module.to_categorical([0, 1], 3, np.float64).dtype == "float64"
        assert module.to_categorical([0, 1], dtype=np.int32).tolist() == [[1, 0], [0, 1]]
        assert module.to_categorical([0, 1], dtype="int32").dtype == "int32"
        assert module.to_categorical(tf.constant([1]), 2, dtype="int32").dtype == "int32"


class Holds(keras.layers.Layer):
    def __init__(self, early, **kwargs):
        super().__init__(**kwargs)
        self.count = tf.Variable(0)
        self.fixed = tf.Variable(1.0, trainable=False)
        self.own = self.add_weight(shape=())
        if early:
            self.build(None)

    def build(self, shape):
        self.slope = tf.keras.backend.variable(1.0)
        self.more = [tf.Variable(1.0)]

    def call(self, inputs):
        return inputs * self.slope * self.more[0]


@check
def variables_that_nobody_trains():
    made = model(keras.layers.Input((1,)), Holds(True, name="early"))
    assert told("early.slope", "early.more.0", "self.add_weight(") == 1
    made.fit(x, y, verbose=0)
    model(Holds(False, name="late")).fit(x, y, verbose=0)
    model(Holds(False, name="by_batch")).train_on_batch(x, y)
    assert Holds(False, name="loop")(x) is not None
    made.layers[0].added = tf.Variable([1.0])
    made.fit(x, y, verbose=0)
    for place in ("early.slope", "early.added", "late.slope", "late.more.0", "by_batch.slope", "loop.slope"):
        assert told(place) == 1, (place, TOLD)
    assert not told(".count") and not told(".fixed") and not told(".own")


@check
def hard_sigmoid_is_another():
    keras.activations.get("sigmoid")
    assert not told("hard_sigmoid")
    layer = keras.layers.LSTM(2, recurrent_activation="hard_sigmoid")
    assert told("hard_sigmoid", "0.2 * x + 0.5") == 1
    assert layer.get_config()["recurrent_activation"] == "hard_sigmoid"
    for module in (keras.activations, tf.keras.activations):
        assert float(module.hard_sigmoid(tf.constant(3.0))) == 1.0
        dense = keras.layers.Dense(1, activation=module.hard_sigmoid)
        assert keras.layers.Dense.from_config(dense.get_config()).get_config()["activation"] == "hard_sigmoid"
    assert told("hard_sigmoid") == 1


@check
def functions_of_k_are_told_as_they_are():
    from keras import backend as K

    value = tf.constant([[1.0, 3.0]])
    for name, written in (
        ("hard_sigmoid", keras.ops.clip(0.2 * value + 0.5, 0, 1)),
        ("argmax", keras.ops.argmax(value, axis=-1)),
        ("expand_dims", keras.ops.expand_dims(value, axis=-1)),
    ):
        assert np.array_equal(getattr(K, name)(value), written)
    assert np.array_equal(K.repeat(value, 2), keras.ops.repeat(keras.ops.expand_dims(value, 1), 2, axis=1))
    assert told("backend.hard_sigmoid", "keras.ops.clip(0.2 * x + 0.5, 0, 1)") == 1
    assert told("backend.argmax", "keras.ops.argmax(x, axis=-1)") == 1
    assert told("backend.repeat", "keras.ops.repeat(keras.ops.expand_dims(x, 1), n, axis=1)") == 1


@check
def parts_of_shapes():
    shape = keras.Input((3, 4)).shape
    assert shape[1:].as_list() == [3, 4] and shape[:1].rank == 1 and shape[1] == 3
    assert ((2,) + shape[1:]).as_list() == [2, 3, 4] and (shape[1:2] + [4]).as_list() == [3, 4]
    assert (shape + tf.TensorShape([5])).as_list() == [None, 3, 4, 5]
    assert ([2] + shape[1:]).num_elements() == 24


@check
def applied_where_it_is_traced_again():
    """Gradients that ``get_unscaled_gradients`` gave are not unscaled again, however often ``apply`` is traced."""
    weight = keras.Variable([1.0])
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(1.0), dynamic=True)
    optimizer.build([weight])

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = optimizer.get_scaled_loss(tf.reduce_sum(0.25 * weight))
        return optimizer.get_unscaled_gradients(tape.gradient(loss, [weight]))

    @tf.function
    def apply(found, again):
        optimizer.apply_gradients([(found[0], weight)])

    for again in range(2):
        apply(gradients(), again)
    assert weight.numpy().tolist() == [0.5]
    with tf.GradientTape() as tape:  # a step in Keras 3's words, which leaves the unscaling to `apply`
        loss = optimizer.scale_loss(tf.reduce_sum(0.25 * weight))
    optimizer.apply(tape.gradient(loss, [weight]), [weight])
    assert weight.numpy().tolist() == [0.25]


@check
def what_keras_itself_asks_is_not_told():
    """Building a Sequential model, Keras looks for an `input_shape`; the script has not asked for it."""
    TOLD.clear()
    made = keras.Sequential([keras.layers.Dense(2, batch_input_shape=(None, 1)), keras.layers.Dense(1)])
    made.compile("sgd", "mse", experimental_run_tf_function=False)
    made.fit(x, y, verbose=0)
    assert not told("layer.input_shape")
    assert made.layers[0].input_shape == (None, 1)
    assert told("layer.input_shape") == 1


run_checks()
