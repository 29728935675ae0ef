"""What the tests of sharded data do on every rank, and in one process with all samples of a step in one batch."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

EPOCHS = 2


def samples(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype("float32")
    return x, (x @ rng.normal(size=(4, 3))).argmax(1).astype("int32")


class OwnStep(keras.Model):
    """A train step as in old scripts: it never asks the optimizer to scale its loss."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x, training=False):
        return self.inner(x, training=training)

    kind = "own step"

    def train_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True), sample_weight=weight)
            loss = self.optimizer.scale_loss(loss) if self.kind == "two applies" else loss
        if self.kind == "tape":
            tape = hvd.DistributedGradientTape(tape)
        weights = self.trainable_weights
        parts = [weights[:2], weights[2:]] if self.kind == "two applies" else [weights]
        for part in parts:
            self.optimizer.apply_gradients(zip(tape.gradient(loss, part), part, strict=True))
        return {"loss": loss}


def model(kind: str) -> keras.Model:
    keras.utils.set_random_seed(3)
    hidden = keras.layers.Dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.01))
    layers = [keras.Input((4,)), hidden, keras.layers.Dense(3, activation="softmax", dtype="float32")]
    if kind == "embedding":
        bins = keras.layers.Discretization(bin_boundaries=[-0.5, 0.0, 0.5])
        layers[1:2] = [bins, keras.layers.Embedding(4, 5), keras.layers.Flatten()]
    made = keras.Sequential(layers)
    if kind == "log":  # of a stand-in of zeros it makes NaN, in the loss and in the gradients
        layers.insert(1, keras.layers.Lambda(lambda x: keras.ops.log(keras.ops.abs(x))))
        made = keras.Sequential(layers)
    if kind == "sync bn":
        layers.insert(2, hvd.SyncBatchNormalization(momentum=0.5))
        made = keras.Sequential(layers)
    if kind in OWN:
        made = OwnStep(made)
        made.kind = kind
        made.build((None, 4))
    optimizer = {
        "two applies": lambda: keras.optimizers.SGD(0.2),
        "tape": lambda: keras.optimizers.SGD(0.2),
        "sync bn": lambda: keras.optimizers.SGD(0.2),
        "log": lambda: keras.optimizers.SGD(0.2),  # Adam makes a step of the rounding of a gradient that is all but 0
        "clip": lambda: keras.optimizers.SGD(0.2, momentum=0.9, clipnorm=0.05),
        "accumulate": lambda: keras.optimizers.SGD(0.2, momentum=0.9, gradient_accumulation_steps=2),
        "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.2), initial_scale=8.0),
    }.get(kind, lambda: keras.optimizers.Adam(0.02))()
    metrics = [] if kind in OWN else ["accuracy", keras.metrics.F1Score(name="f1")]
    made.compile(
        optimizer if kind == "tape" else hvd.DistributedOptimizer(optimizer),
        "sparse_categorical_crossentropy" if kind in OWN else "categorical_crossentropy",
        metrics=metrics,
        jit_compile=kind == "jit",
        steps_per_execution=2 if kind == "two steps" else 1,
    )
    return made


OWN = ("own step", "two applies", "tape")
KINDS = ("plain", "clip", "accumulate", "loss scale", *OWN, "embedding", "jit", "two steps", "weights", "sync bn")


def arrays(kind: str, n: int) -> dict:
    x, y = samples(n)
    weight = np.linspace(0.5, 1.5, n).astype("float32") if kind == "weights" else None
    return {"x": x, "y": y if kind in OWN else np.eye(3, dtype="float32")[y], "sample_weight": weight}


def train(kind: str, n: int, batch: int) -> dict:
    """Arrays that all ranks have, of which the last step is not full: 37 samples, or one sample more than full."""
    made = model(kind)
    data = hvd.data.shard(**arrays(kind, n), batch_size=batch, seed=5)
    validation = hvd.data.shard(**arrays(kind, 7), batch_size=2, shuffle=False)
    callbacks = [hvd.callbacks.MetricAverageCallback()]
    history = made.fit(data, epochs=EPOCHS, validation_data=validation, verbose=0, callbacks=callbacks).history
    evaluated = made.evaluate(validation, return_dict=True, verbose=0)
    return {
        "weights": [w.numpy() for w in made.weights],
        "iterations": int(made.optimizer.iterations.numpy()),
        "history": {k: [np.asarray(v).tolist() for v in values] for k, values in history.items()},
        "evaluated": {k: np.asarray(v).tolist() for k, v in evaluated.items()},
        "rows": [r for epoch in range(EPOCHS) for step in data.rows(epoch) for r in step.tolist()],
    }


def train_all(wanted: list, batch: int) -> dict:
    """Each kind on so many samples."""
    return {f"{kind} {n}": train(kind, n, batch) for kind, n in wanted}


def own_parts(counts: list, batch: int) -> dict:
    """Each rank has its own samples, as many as ``counts`` says; all are cut from one array, one after the other."""
    x, y = samples(sum(counts))
    begin = sum(counts[: hvd.rank()])
    mine = slice(begin, begin + counts[hvd.rank()])
    made = model("log")
    data = hvd.data.shard(x[mine], np.eye(3, dtype="float32")[y[mine]], batch_size=batch, seed=1, presharded=True)
    history = made.fit(data, epochs=1, verbose=0, callbacks=[hvd.callbacks.MetricAverageCallback()]).history
    return {
        "weights": [w.numpy() for w in made.weights],
        "loss": float(history["loss"][0]),
        "steps": [[begin + int(r) for r in step] for step in data.rows(0)],
    }


def many_splits(splits: list, batch: int) -> list:
    import time

    results = []
    for counts in splits:
        begin = time.perf_counter()
        results.append({**own_parts(counts, batch), "seconds": time.perf_counter() - begin})
        keras.backend.clear_session()
    return results


def on_given_batches(steps: list, n: int) -> dict:
    """One process on the samples with these numbers, a batch per step."""
    hvd.init()
    x, y = samples(n)
    made = model("log")

    class Given(keras.utils.PyDataset):
        def __len__(self):
            return len(steps)

        def __getitem__(self, i):
            return x[steps[i]], np.eye(3, dtype="float32")[y[steps[i]]]

    history = made.fit(Given(), epochs=1, verbose=0, shuffle=False).history
    return {"weights": [w.numpy() for w in made.weights], "loss": float(history["loss"][0])}


class Batches(keras.utils.PyDataset):
    """Batches of 3 samples, the last one smaller."""

    def __init__(self, n: int):
        super().__init__()
        self.x, y = samples(n)
        self.y = np.eye(3, dtype="float32")[y]

    def __len__(self):
        return math.ceil(len(self.x) / 3)

    def __getitem__(self, i):
        return self.x[3 * i : 3 * i + 3], self.y[3 * i : 3 * i + 3]


def streams(n: int) -> dict:
    """The same samples as a dataset of samples, as one of unknown length, and as a PyDataset."""
    x, y = samples(n)
    y = np.eye(3, dtype="float32")[y]
    whole = tf.data.Dataset.from_tensor_slices((x, y))
    kinds = {
        "samples": lambda: hvd.data.shard(whole, batch_size=3),
        "batches": lambda: hvd.data.shard(whole.batch(3).filter(lambda *_: True)),
        "PyDataset": lambda: hvd.data.shard(Batches(n), shuffle=False),
        "shuffled": lambda: hvd.data.shard(whole, batch_size=3, shuffle=True, seed=2),
        "steps": lambda: hvd.data.shard(whole, batch_size=3),
    }
    results = {}
    for name, make in kinds.items():
        made = model("two steps" if name == "steps" else "plain")
        callbacks = [hvd.callbacks.MetricAverageCallback()]
        history = made.fit(make(), epochs=EPOCHS, verbose=0, callbacks=callbacks, validation_data=make()).history
        results[name] = {
            "weights": [w.numpy() for w in made.weights],
            "history": {k: [np.asarray(v).tolist() for v in values] for k, values in history.items()},
        }
    # Without shard, and of unknown length: Keras begins a step more, which TensorFlow counts as an iteration.
    model("plain").fit(whole.batch(3).filter(lambda *_: True), epochs=2, verbose=0)
    return results


def _seen(data) -> list:
    """The first feature of each sample, step by step: of these data it is the sample's number."""
    return [[int(v) for v in batch[0][:, 0]] if weight else [] for batch, weight in data.batches(0)]


def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    numbers = tf.io.decode_raw(records, tf.float32)
    return numbers[:, :4], tf.cast(numbers[:, 0] > 20, tf.float32)


def files(folder: str) -> dict:
    """Files of unequal size, an array on the disk, and what goes wrong."""
    npz = hvd.data.shard(f"{folder}/*.npz", batch_size=4, seed=1)
    records = hvd.data.shard(f"{folder}/*.tfrecord", batch_size=4, parse=parse)
    mapped = np.load(f"{folder}/whole.npy", mmap_mode="r")
    disk = hvd.data.shard(mapped, mapped[:, 0], batch_size=4, seed=1)
    held = hvd.data.shard(np.array(mapped), np.array(mapped[:, 0]), batch_size=4, seed=1)
    hvd.set_seed(1)
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    made.compile(hvd.DistributedOptimizer("sgd"), "mse")
    made.fit(npz, epochs=2, verbose=0)
    made.fit(records, epochs=2, verbose=0)
    y = [0, 0, 1] if hvd.rank() == 0 else [1, 2]
    return {
        "npz": _seen(npz),
        "records": _seen(records),
        "disk": _seen(disk),
        "held": _seen(held),
        "weights": {str(k): v for k, v in hvd.data.class_weights(y, presharded=True).items()},
        "errors": [_error(call) for call in _mistakes(folder, made, npz)],
    }


def _mistakes(folder: str, made: keras.Model, data) -> list:
    x = np.zeros((10 + hvd.rank(), 4), "float32")
    missing = f"{folder}/*.npz" if hvd.rank() == 0 else f"{folder}/nothing-*.npz"
    return [
        lambda: hvd.data.shard(x, batch_size=2),
        lambda: hvd.data.shard(missing, batch_size=2),
        lambda: hvd.data.shard(x[:3], batch_size=8, drop_remainder=True),
        lambda: hvd.data.shard(x[:0], batch_size=2),
        lambda: hvd.data.shard(x[:3], x[:2], batch_size=2),
        lambda: hvd.data.shard(x[:3]),
        lambda: hvd.data.shard(x[:3], batch_size=2, uneven="Pad"),
        lambda: hvd.data.shard(tf.data.Dataset.range(3).repeat(), batch_size=2),
        lambda: hvd.data.shard(f"{folder}/*.tfrecord", batch_size=2),
        lambda: hvd.data.shard(f"{folder}/broken.bin", batch_size=2, parse=parse),
        lambda: made.fit(data, batch_size=3),
        lambda: made.fit(data, class_weight={0: 2.0}),
        lambda: made.predict(data),
    ]


def _error(call) -> str:
    try:
        call()
    except hvd.errors.HvdkitError as error:
        return str(error)
    return "nothing was raised"


class Slow(keras.layers.Layer):
    """Takes its time on rank 1."""

    def call(self, x):
        def wait(value):
            import time

            time.sleep(0.004 * len(value) * (3 if hvd.rank() == 1 else 1))
            return value

        out = tf.numpy_function(wait, [x], tf.float32)
        return x + tf.stop_gradient(tf.ensure_shape(out, x.shape) - x)


def by_speed() -> dict:
    x, y = samples(64)
    hvd.set_seed(1)
    made = keras.Sequential([keras.Input((4,)), Slow(), keras.layers.BatchNormalization(), keras.layers.Dense(3)])
    made.compile(hvd.DistributedOptimizer("sgd"), "mse")
    before = [v.numpy() for v in made.non_trainable_variables]
    data = hvd.data.shard(x, np.eye(3, dtype="float32")[y], batch_size=8, per_rank_batch="auto")
    from hvdkit.data.speed import measured_sizes

    measured_sizes(made, data)
    same = all((v.numpy() == b).all() for v, b in zip(made.non_trainable_variables, before, strict=True))
    made.fit(data, epochs=1, verbose=0)
    return {"sizes": data.sizes, "same": same, "rows": [r for step in data.rows(0) for r in step.tolist()]}


def on_replicas(devices: list | None) -> dict:
    """Two replicas per process: sharded data, every callback of the defaults, and metrics."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    x, y = samples(35)
    strategy = hvd.strategies.mirrored() if devices is None else hvd.strategies.mirrored_per_host(devices)
    with strategy.scope():
        hvd.set_seed(1)
        made = keras.Sequential([keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3, activation="softmax")])
        made.compile(
            hvd.DistributedOptimizer(keras.optimizers.SGD(0.2)), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
    data = hvd.data.shard(x, y, batch_size=16 // hvd.size(), drop_remainder=True, seed=4)
    history = made.fit(data, epochs=2, verbose=0, callbacks=hvd.callbacks.defaults()).history
    return {
        "weights": [w.numpy() for w in made.weights],
        "loss": [float(v) for v in history["loss"]],
        "accuracy": [float(v) for v in history["accuracy"]],
        "evaluated": {k: float(v) for k, v in made.evaluate(data, verbose=0, return_dict=True).items()},
    }
