"""Keras 2's names, arguments and attributes, one check each; run by test_compat.py as idiom_checks.py is."""

import importlib
import inspect
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf
from check_runner import check, run_checks, says

import hvdkit

hvdkit.init()
x, y = np.ones((8, 4), "float32"), np.arange(8) % 2


def model(*layers, **arguments):
    made = keras.Sequential([keras.layers.Input((4,)), *(layers or [keras.layers.Dense(2, activation="softmax")])])
    made.compile("sgd", "sparse_categorical_crossentropy", **arguments)
    return made


@check
def losses_and_metrics_in_both():
    for module in (keras.losses, tf.keras.losses, keras.metrics, tf.keras.metrics):
        for short, long in (("mse", "mean_squared_error"), ("MAE", "mean_absolute_error"), ("KLD", "kl_divergence")):
            assert getattr(module, short)([[1.0]], [[1.0]]).numpy() == getattr(module, long)([[1.0]], [[1.0]]).numpy()
        assert module.kullback_leibler_divergence is module.kl_divergence and module.logcosh is module.log_cosh
    assert keras.losses.Reduction.SUM == "sum"


@check
def modules_that_moved():
    exec("from keras.preprocessing.text import Tokenizer; Tokenizer().fit_on_texts(['a b'])")
    exec("from tensorflow.keras.preprocessing.text import text_to_word_sequence")
    exec("from keras.preprocessing.sequence import pad_sequences, TimeseriesGenerator, skipgrams")
    exec("from tensorflow.keras.saving import load_model")
    exec("from keras.callbacks.experimental import BackupAndRestore")
    exec("from keras.engine.base_layer import Layer")
    exec("from keras.experimental import CosineDecay")
    assert keras.preprocessing.text.Tokenizer is tf.keras.preprocessing.text.Tokenizer
    assert tf.keras.saving.load_model is keras.saving.load_model


@check
def what_is_gone_says_so():
    for module, name in (
        (keras.layers, "LocallyConnected1D"),
        (tf.keras.layers, "CuDNNLSTM"),
        (keras.models, "model_from_yaml"),
        (tf.keras.utils, "OrderedEnqueuer"),
        (keras.metrics, "MeanTensor"),
        (keras.backend, "in_train_phase"),
    ):
        says("Keras 3 has no", lambda module=module, name=name: getattr(module, name)(1))
    says("state_size", lambda: type("Cell", (keras.layers.AbstractRNNCell,), {}))


@check
def batch_normalization():
    made = model(keras.layers.BatchNormalization(fused=False, virtual_batch_size=None, renorm=False))
    assert made.predict(x, verbose=0).shape == (8, 4)
    says("SyncBatchNormalization", lambda: keras.layers.BatchNormalization(virtual_batch_size=4))
    if "renorm" in inspect.signature(keras.layers.BatchNormalization).parameters:  # Keras 3.15 has it again
        assert keras.layers.BatchNormalization(renorm=True).renorm
    else:
        says("SyncBatchNormalization", lambda: keras.layers.BatchNormalization(renorm=True))


@check
def recurrent_layers():
    for cls in (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN):
        assert cls(3, time_major=False)(np.ones((2, 5, 4), "float32")).shape == (2, 3)
        says("Permute", lambda cls=cls: cls(3, time_major=True))
    assert keras.layers.LSTM(3, time_major=False, implementation=2)(np.ones((2, 5, 4), "float32")).shape == (2, 3)


@check
def layer_arguments():
    class Own(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(dynamic=False, **kwargs)

        def build(self, input_shape):
            self.a = self.add_weight("a", (input_shape[-1],), initializer="ones", use_resource=True)
            self.b = self.add_weight(
                "b", [2], tf.float32, "zeros", synchronization=tf.VariableSynchronization.AUTO,
                aggregation=tf.VariableAggregation.MEAN,
            )  # fmt: skip

        def call(self, inputs):
            return inputs * self.a

    made = model(Own(name="own"))
    assert made.predict(x, verbose=0).tolist() == x.tolist()
    assert [w.name for w in made.layers[0].weights] == ["a", "b"]
    says("run_eagerly", lambda: keras.layers.Dense(2, dynamic=True))
    assert keras.layers.Embedding(3, 2, input_length=4, sparse=False)(np.ones((1, 4))).shape == (1, 4, 2)


@check
def shapes_and_weights_of_layers():
    kernel, bias = np.full((4, 2), 3.0, "float32"), np.full(2, 5.0, "float32")
    made = keras.Sequential([keras.layers.Dense(2, batch_input_shape=(None, 4), weights=[kernel, bias])])
    assert made.predict(x, verbose=0)[0].tolist() == [17.0, 17.0]
    assert made.layers[0].input_shape == (None, 4) and made.layers[0].output_shape == (None, 2)
    stateful = keras.Sequential([keras.layers.LSTM(3, batch_input_shape=(2, 5, 4), stateful=True)])
    assert stateful.input_shape == (2, 5, 4)
    later = keras.layers.Dense(2, weights=[kernel, bias])
    assert later(x).numpy()[0].tolist() == [17.0, 17.0]
    a = keras.Input((4,))
    b = later(a)
    assert later.get_output_shape_at(0) == (None, 2) and later.get_input_at(0) is a and later.get_output_at(0) is b
    assert b.shape.as_list() == [None, 2] and b.get_shape().num_elements() is None and a.shape.rank == 2
    assert not hasattr(keras.layers.Dense(2), "output_shape")
    assert not keras.Sequential([later, keras.layers.Dense(2)]).built  # its input need not be as `later`'s was


@check
def shapes_go_where_tuples_go():
    a = keras.Input((4,))
    made = keras.Model(a, keras.layers.Reshape(a.shape[1:] + (1,))(keras.layers.Dense(a.shape.as_list()[1])(a)))
    with tempfile.TemporaryDirectory() as folder:
        made.save(f"{folder}/m.keras")
        again = keras.saving.load_model(f"{folder}/m.keras")
    assert np.allclose(again.predict(x, verbose=0), made.predict(x, verbose=0))
    assert keras.Model.from_config(made.get_config()).output_shape == (None, 4, 1)


@check
def optimizers():
    for cls in (keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.RMSprop):
        optimizer = cls(learning_rate=0.5, jit_compile=True)
        weight = keras.Variable(1.0)
        optimizer.apply_gradients(
            [(tf.constant(1.0), weight)], name="step", experimental_aggregate_gradients=True,
            skip_gradients_aggregation=False,
        )  # fmt: skip
        assert float(weight.numpy()) < 1.0
    distributed = hvdkit.DistributedOptimizer(keras.optimizers.SGD(0.1))
    for said in ({"experimental_aggregate_gradients": False}, {"skip_gradients_aggregation": True}):
        says("plain optimizer", lambda said=said: distributed.apply_gradients([(tf.constant(1.0), weight)], **said))


@check
def optimizers_of_ones_own():
    class Nameless(keras.optimizers.Optimizer):
        def __init__(self, name="own", **kwargs):
            super().__init__(name=name, **kwargs)

    class Legacy(keras.optimizers.Optimizer):
        def _resource_apply_dense(self, grad, handle, apply_state):
            pass

    class Short(keras.optimizers.Optimizer):
        def update_step(self, gradient, variable):
            pass

    class Today(keras.optimizers.Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            variable.assign_sub(gradient * learning_rate)

    says("update_step(self, gradient, variable, learning_rate)", Nameless)
    says("update_step(self, gradient, variable, learning_rate)", lambda: Legacy(0.1))
    says("update_step(self, gradient, variable, learning_rate)", lambda: Short(0.1))
    Today(lr=0.1)
    says("tf.GradientTape", lambda: Today(0.1)._compute_gradients)


@check
def training_arguments():
    made = model(sample_weight_mode="temporal", cloning=True, metrics=["accuracy"])
    made.train_on_batch(x, y, reset_metrics=True)
    made.test_on_batch(x, y, reset_metrics=True)
    says("update_state", lambda: made.train_on_batch(x, y, reset_metrics=False))


@check
def callbacks():
    with tempfile.TemporaryDirectory() as folder:
        every_second = keras.callbacks.ModelCheckpoint(folder + "/{epoch}.keras", period=2)
        every = keras.callbacks.ModelCheckpoint(folder + "/all-{epoch}.keras", period=1)
        keras.callbacks.TensorBoard(folder + "/logs", write_grads=True, batch_size=32)
        model().fit(x, y, epochs=5, verbose=0, callbacks=[every_second, every])
        written = sorted(name for name in os.listdir(folder) if name.endswith(".keras"))
    assert written == ["2.keras", "4.keras", *(f"all-{n}.keras" for n in range(1, 6))]
    assert keras.callbacks.ReduceLROnPlateau(epsilon=0.25).min_delta == 0.25


@check
def functions():
    assert keras.utils.to_categorical(y=[1], num_classes=2, dtype="float32").tolist() == [[0, 1]]
    assert tf.keras.utils.to_categorical(y=[1], num_classes=2).tolist() == [[0, 1]]
    assert keras.activations.relu(tf.constant(-2.0), alpha=0.5).numpy() == -1.0
    assert keras.losses.serialize(keras.losses.MeanSquaredError(), use_legacy_format=False)


@check
def metrics_of_ones_own():
    class Count(keras.metrics.Metric):
        def __init__(self, name="count", dtype=None):
            super().__init__(name, dtype)
            self.total = self.add_weight("total", initializer="zeros", aggregation=tf.VariableAggregation.SUM)

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.total.assign_add(1.0)

        def result(self):
            return self.total

    count = Count()
    count.update_state(0, 0)
    assert count.name == "count" and count.total.name == "total" and float(count.result()) == 1.0
    count.reset_states()
    assert float(count.result()) == 0.0


@check
def reductions():
    class Own(keras.losses.Loss):
        def __init__(self):
            super().__init__("sum", "own")

        def call(self, y_true, y_pred):
            return y_pred - y_true

    assert Own()(tf.zeros([3]), tf.ones([3])).numpy() == 3.0 and Own().name == "own"
    automatic = keras.losses.MeanSquaredError(reduction=keras.losses.Reduction.AUTO)
    assert automatic(tf.zeros([2, 1]), tf.ones([2, 1])).numpy() == 1.0


@check
def variables():
    variable = keras.Variable([1.0, 2.0])
    assert {variable.ref(): 1}[variable.ref()] == 1 and variable.ref().deref() is variable
    assert variable.read_value().numpy().tolist() == [1.0, 2.0] and variable.get_shape().as_list() == [2]


@check
def policies():
    importlib.import_module("keras.mixed_precision.experimental")
    keras.mixed_precision.experimental.set_policy("mixed_bfloat16")
    assert tf.keras.mixed_precision.global_policy().compute_dtype == "bfloat16"
    tf.keras.mixed_precision.experimental.set_policy("float32")


@check
def scaled_losses():
    """A loop with a scaled loss is the loop without, to the last bit, also where it clips the unscaled gradients."""

    def trained(scaled):
        weight = keras.Variable([0.3, 0.7])
        optimizer = keras.optimizers.Adam(0.1)
        if scaled:
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, dynamic=True)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(weight * weight)
                told = optimizer.get_scaled_loss(loss) if scaled else loss
            gradients = tape.gradient(told, [weight])
            gradients = optimizer.get_unscaled_gradients(gradients) if scaled else gradients
            gradients, _ = tf.clip_by_global_norm(gradients, 0.5)
            optimizer.apply_gradients([(gradients[0], weight)])

        optimizer.build([weight])
        for _ in range(3):
            step()
        return weight.numpy().tolist()

    assert trained(True) == trained(False) != [0.3, 0.7]


@check
def saved_models_stay_compiled():
    with tempfile.TemporaryDirectory() as folder:
        made = model(metrics=["accuracy"], experimental_run_tf_function=False)
        made.fit(x, y, verbose=0)
        made.save(f"{folder}/m.keras")
        for load in (keras.saving.load_model, tf.keras.models.load_model, hvdkit.load_model):
            again = load(f"{folder}/m.keras")
            assert again.compiled and again.evaluate(x, y, verbose=0)[1] >= 0
            assert int(again.optimizer.iterations) == 1


run_checks()
