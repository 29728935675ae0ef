"""One training, described by a word, plain in one process or on replicas, of one process or of several."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

STEPS, GLOBAL_BATCH = 8, 16


def _sgd(**kw):
    return keras.optimizers.SGD(0.05, momentum=0.9, **kw)


def _scaled(**kw):
    return keras.optimizers.LossScaleOptimizer(_sgd(**kw), initial_scale=64.0, dynamic_growth_steps=3)


CASES = {
    "clipnorm": lambda: _sgd(clipnorm=0.1),
    "clipvalue": lambda: _sgd(clipvalue=0.02),
    "global": lambda: _sgd(global_clipnorm=0.2),
    # TensorFlow orders factors by the names of their operations; on the second replica those begin with "replica_1".
    "global-named": lambda: _sgd(global_clipnorm=0.2, name="SGD"),
    "global-k2": lambda: _sgd(global_clipnorm=0.2, gradient_accumulation_steps=2),
    "clipnorm-k2-embedding": lambda: _sgd(clipnorm=0.1, gradient_accumulation_steps=2),
    "factor": lambda: _sgd(loss_scale_factor=128.0),
    "adamw-k2-ema": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(1e-2, 20),
        weight_decay=0.01,
        clipvalue=0.02,
        gradient_accumulation_steps=2,
        use_ema=True,
        ema_momentum=0.9,
        ema_overwrite_frequency=3,
    ),
    "adam-ema-embedding": lambda: keras.optimizers.Adam(1e-3, use_ema=True, ema_overwrite_frequency=3),
    "lossscale-nan": lambda: _scaled(clipvalue=0.1),
    "lossscale-k2-nan": lambda: _scaled(clipnorm=0.1, gradient_accumulation_steps=2),
    "lossscale-outside-k2-nan": lambda: _sgd(gradient_accumulation_steps=2),
}


def train_plain(names: list[str]) -> dict:
    """Plain Keras on the whole batch, without a strategy and without hvdkit's optimizer."""
    return {name: _train(name, tf.distribute.get_strategy(), distributed=False) for name in names}


def train_on_replicas(names: list[str], devices: list[str] | None) -> dict:
    """This process' part of each batch on two logical CPUs; for whoever started a fresh process."""
    _two_cpus()
    strategy = hvd.strategies.mirrored() if hvd.size() == 1 else hvd.strategies.mirrored_per_host(devices)
    assert strategy.num_replicas_in_sync == 2
    return {name: _train(name, strategy, distributed=True) for name in names}


def say_what_is_refused() -> dict:
    """What users read who do it wrong, by a word for what they did; for whoever started a fresh process."""
    _two_cpus()
    messages = {}

    def listen(what, call, *args):
        try:
            call(*args)
        except hvd.errors.HvdkitError as error:
            messages[what] = str(error)

    if hvd.size() > 1:
        listen("several processes, mirrored", hvd.strategies.mirrored)
        listen("several processes, one host", hvd.strategies.mirrored_per_host)
        return messages
    listen("no such device", hvd.strategies.mirrored, ["CPU:7"])
    listen("a device twice", hvd.strategies.mirrored, ["CPU:0", "/cpu:0"])
    strategy = hvd.strategies.mirrored()
    outside = hvd.DistributedOptimizer(_sgd())
    with strategy.scope():
        model = _model("")
        model.compile(outside, "mse")
        apart = keras.Variable(np.zeros(2, "float32"), name="apart")
    listen("an optimizer made outside", lambda: model.fit(np.ones((4, 6)), np.ones(4), verbose=0))
    hvd.assert_equal_weights([apart])
    strategy.run(lambda: apart.assign([0.0, tf.distribute.get_replica_context().replica_id_in_sync_group]))
    listen("replicas that differ", hvd.assert_equal_weights, [apart])
    return messages


def horovod_operations() -> list[str]:
    """The device of each Horovod operation in the step of a model with two variables on the second device alone."""
    _two_cpus()
    strategy = hvd.strategies.mirrored_per_host(["CPU:1"])
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(hvd.DistributedOptimizer(_sgd(gradient_accumulation_steps=2)), "mse")
        model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(x):
        return strategy.run(lambda x: model.train_step((x, x[:, :2])), args=(x,))

    graph = step.get_concrete_function(tf.TensorSpec((4, 3))).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [node.device.rpartition("device:")[2] for node in nodes if node.op.startswith("Horovod")]


def _two_cpus() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def _train(name: str, strategy, *, distributed: bool) -> dict:
    # Other weights on other ranks: the callbacks must bring them together.
    keras.utils.set_random_seed(1 + hvd.rank())
    x, y = _data(name)
    with strategy.scope():
        model = _model(name)
        optimizer = CASES[name]()
        if distributed:
            optimizer = hvd.DistributedOptimizer(optimizer)
        if "outside" in name:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0, dynamic_growth_steps=3)
        model.compile(optimizer, "mse")
    mine = np.arange(len(x)).reshape(STEPS, hvd.size(), -1)[:, hvd.rank()].ravel()
    callbacks = hvd.callbacks.defaults() if distributed else None
    history = model.fit(
        x[mine], y[mine], batch_size=GLOBAL_BATCH // hvd.size(), shuffle=False, verbose=0, callbacks=callbacks
    ).history
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    result = {
        # Not the accumulators: a process adds up its own part, until the update joins them.
        "weights": [np.asarray(v.numpy()) for v in [*model.weights, *inner.variables] if "accumulator" not in v.name],
        "replicas": [
            [np.asarray(c.numpy()) for c in strategy.experimental_local_results(v.value)]
            for v in [*model.weights, *optimizer.variables]
        ],
        "loss": history["loss"][0],
        "scale": float(optimizer.dynamic_scale.numpy()) if "lossscale" in name else 1.0,
        "reductions": int(inner._hvdkit.pipeline.reductions.numpy()) if distributed else 0,
    }
    if distributed:
        result["digest"] = hvd.assert_equal_weights(model)
    keras.backend.clear_session()
    return result


def _model(name: str) -> keras.Model:
    layers = [keras.Input((6,))]
    if "embedding" in name:
        layers = [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(50, 8),
            keras.layers.GlobalAveragePooling1D(),
        ]
    dense = keras.layers.Dense(8, activation="tanh", kernel_regularizer="l2")
    return keras.Sequential([*layers, dense, keras.layers.Dense(1)])


def _data(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    n = STEPS * GLOBAL_BATCH
    if "embedding" in name:
        x = rng.integers(0, 40, size=(n, 5)).astype("int32")
        return x, np.sin(x.sum(1, keepdims=True) / 10).astype("float32")
    x = rng.normal(size=(n, 6)).astype("float32")
    y = np.sin(x.sum(1, keepdims=True)).astype("float32")
    if name.endswith("nan"):
        # In step 3 only, in the last sample: the last replica of the last rank.
        x[4 * GLOBAL_BATCH - 1] = np.nan
    return x, y
