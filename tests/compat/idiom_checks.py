"""Keras 2 idioms and imports from Horovod, one check each; prints {check: "ok" or what was raised} as JSON.

Run by test_compat.py twice: under ``python -m hvdkit.compat``, where all are ok, and under Python alone, where none is.
"""

import importlib
import sys

import keras
import numpy as np
import tensorflow as tf
from check_runner import check, run_checks, says

import hvdkit

hvdkit.init()
K = keras.backend
x, y = np.ones((8, 4), "float32"), np.arange(8) % 2


def model(**arguments):
    made = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    made.compile("sgd", "sparse_categorical_crossentropy", **arguments)
    return made


def batches():
    while True:
        yield x, y


@check
def compile_arguments():
    model(experimental_run_tf_function=False, sample_weight_mode=None, target_tensors=None).fit(x, y, verbose=0)


@check
def compile_arguments_that_meant_something():
    says("pass the targets to fit", lambda: model(target_tensors=[y]))


@check
def fit_workers():
    assert model().fit(x, y, verbose=0, workers=2, use_multiprocessing=True, max_queue_size=3).epoch == [0]


@check
def evaluate_and_predict_workers():
    assert model().evaluate(x, y, verbose=0, workers=2) > 0
    assert model().predict(x, verbose=0, max_queue_size=2).shape == (8, 2)


@check
def fit_generator():
    trained = model()
    history = trained.fit_generator(batches(), 3, 2, 0, validation_data=(x, y), initial_epoch=1)
    assert history.epoch == [1] and "val_loss" in history.history
    assert int(trained.optimizer.iterations) == 3


@check
def other_generators():
    assert model().evaluate_generator(batches(), 2) > 0
    assert model().predict_generator(batches(), 2).shape == (16, 2)


@check
def lr_argument():
    assert np.isclose(float(keras.optimizers.Adam(lr=0.25).learning_rate), 0.25)


@check
def decay_argument():
    optimizer, weight = keras.optimizers.SGD(lr=0.1, decay=0.5), keras.Variable(1.0)
    expected = 1.0
    for step in range(4):
        optimizer.apply([np.float32(1.0)], [weight])
        expected -= 0.1 / (1 + 0.5 * step)
    assert np.isclose(float(weight.numpy()), expected)


@check
def decay_and_a_schedule():
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.5)
    says("delete decay=", lambda: keras.optimizers.SGD(schedule, decay=0.5))


@check
def lr_attribute():
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.lr = 0.5
    assert float(optimizer.learning_rate) == float(optimizer.lr) == 0.5


@check
def variables_call():
    optimizer = keras.optimizers.SGD(0.1)
    assert [v.path for v in optimizer.variables()] == [v.path for v in optimizer.variables]


@check
def get_and_set_value():
    for backend in (K, tf.keras.backend, importlib.import_module("tensorflow.keras.backend")):
        rate = keras.optimizers.SGD(0.1).learning_rate
        backend.set_value(rate, 0.5)
        backend.batch_set_value([(rate, 2 * backend.get_value(rate))])
        assert backend.batch_get_value([rate]) == [1.0]


@check
def set_value_of_a_schedule():
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.5))
    says("not a variable", lambda: K.set_value(optimizer.learning_rate, 0.5))


@check
def backend_functions():
    assert float(K.mean(tf.constant([1.0, 3.0]))) == 2.0


@check
def legacy_optimizers():
    for module in (keras.optimizers.legacy, tf.keras.optimizers.legacy, tf.keras.optimizers.experimental):
        assert isinstance(module.SGD(0.1), keras.optimizers.SGD)
    exec("from tensorflow.keras.optimizers.legacy import Adam; Adam(0.1)")


@check
def old_paths():
    exec("from keras.utils import np_utils; np_utils.to_categorical([1])")
    exec("from keras.utils.np_utils import to_categorical")
    exec("from keras.layers.core import Dense; from keras.layers.convolutional import Conv2D")
    exec("from tensorflow.keras.layers.experimental import preprocessing; preprocessing.Rescaling(2.0)")


@check
def only_in_tf_keras():
    exec("from keras.preprocessing.image import ImageDataGenerator")
    assert float(keras.layers.ThresholdedReLU(theta=1.0)(tf.constant([[0.5]]))[0, 0]) == 0.0


@check
def gone_from_models_and_optimizers():
    error = says("argmax(axis=-1)", lambda: model().predict_classes(x))
    assert isinstance(error, AttributeError)
    says("variable.numpy()", lambda: keras.optimizers.SGD(0.1).get_weights())
    assert not hasattr(keras.optimizers.SGD(0.1), "weights")


@check
def sessions():
    exec("from keras.backend import set_session")
    config = tf.ConfigProto()
    config.gpu_options.allow_growth = True
    config.gpu_options.visible_device_list = "0"
    says("model.fit", lambda: tf.Session(config=config).run(None))
    with tf.Session(config=config) as session:
        assert K.set_session(session) is tf.keras.backend.set_session(session) is tf.enable_eager_execution() is None
    tf.set_random_seed(1)
    says("training=True", lambda: K.learning_phase())
    says("gives this rank its GPU", lambda: K.get_session())
    says("from the beginning", lambda: tf.global_variables_initializer())
    assert not hasattr(tf, "placeholder")


@check
def horovod_is_hvdkit():
    import horovod
    import horovod.keras
    import horovod.tensorflow
    import horovod.tensorflow.keras as hvd
    import horovod.tensorflow.keras.callbacks
    from horovod.tensorflow.keras import callbacks

    broadcast = hvdkit.callbacks.BroadcastGlobalVariablesCallback
    for module in (hvd.callbacks, callbacks, horovod.keras.callbacks, horovod.tensorflow.keras.callbacks):
        assert module.BroadcastGlobalVariablesCallback is broadcast
    assert hvd.DistributedOptimizer is horovod.keras.DistributedOptimizer is hvdkit.DistributedOptimizer
    assert horovod.tensorflow.DistributedGradientTape is hvdkit.DistributedGradientTape
    assert horovod.tensorflow.SyncBatchNormalization is hvdkit.SyncBatchNormalization
    assert horovod.__version__ == "0.28.1"
    scope = {}
    exec("from horovod.tensorflow import *", scope)
    assert {"allreduce", "rank", "Compression", "Average"} <= scope.keys()


@check
def the_library_is_not_needed():
    import horovod.tensorflow

    assert horovod.tensorflow.rank() == 0 and horovod.tensorflow.size() == 1
    assert [n for n in sys.modules if n.startswith("horovod")] and "horovod.common" not in sys.modules


@check
def the_library_stays_reachable():
    import horovod.tensorflow as hvd

    from hvdkit.comm.horovod import load_horovod

    assert load_horovod() is not hvd and load_horovod().__file__ and hvd.gloo_built() == load_horovod().gloo_built()
    assert sys.modules["horovod.tensorflow"] is hvd


@check
def arguments_of_horovod_tensorflow():
    import horovod.tensorflow as hvd

    assert hvd.allreduce(tf.constant([2.0]), False, "", "", hvd.Compression.fp16, None, 3.0, 0.5).numpy() == [3.0]
    assert hvd.allreduce(3.0, op=hvd.Sum).numpy() == 3.0
    assert [float(t) for t in hvd.grouped_allreduce([1.0, 2.0], True)] == [1.0, 2.0]
    assert hvd.reducescatter(tf.constant([2.0]), prescale_factor=2.0, postscale_factor=2.0).numpy() == [8.0]
    assert hvd.broadcast_object({"a": 1}, 0, None, "name") == {"a": 1} == hvd.broadcast_object_fn()({"a": 1})
    assert hvd.allgather_object(1, None, "name") == [1]
    assert isinstance(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), None, False, "", ""), keras.optimizers.SGD)
    assert int(hvd.size_op()) == 1 and int(hvd.rank_op()) == 0
    variable = tf.Variable(1.0)
    tf.function(lambda: hvd.broadcast_variables([variable], 0))()
    assert hvd.broadcast_([variable], 0) == [variable]
    says("same number of batches", lambda: hvd.join())


@check
def tensors_come_back():
    import horovod.keras as hvd

    assert hvd.allreduce(2.0).numpy() == hvd.broadcast(2.0, 0).numpy() == 2.0
    assert hvd.allgather([1.0]).numpy() == hvd.reducescatter([1.0]).numpy() == [1.0]


@check
def what_is_not_there():
    import horovod
    import horovod.tensorflow.keras as hvd

    for name in ("horovod.torch", "horovod.spark", "horovod.tensorflow.keras.elastic", "horovod.nonsense"):
        assert isinstance(says(name, lambda name=name: importlib.import_module(name)), ImportError)
    says("start again", lambda: hvd.elastic)
    says("hvdkit run", lambda: horovod.run)
    try:
        from horovod.tensorflow import BroadcastGlobalVariablesHook  # noqa: F401
    except ImportError as error:
        assert "BroadcastGlobalVariablesCallback(0)" in str(error)


# The library last: one check wants it not loaded yet, another loads it.
run_checks()
