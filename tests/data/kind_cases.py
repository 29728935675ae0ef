"""Datasets of every kind that ``tf.data`` can carry, and PyDatasets that change with the epoch, on every rank."""

from __future__ import annotations

import math
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from hvdkit.data import kinds

EACH = 2  # samples of a rank in a step
RESHUFFLED = [(1, 0), (2, 0), (1, 6), (2, 6)]  # workers, and by how many samples epochs differ
TEXTS = ["fine day", "grim rain", "fine fine sun", "rain", "", "day of rain"]


def _dense(n: int, dtype: tf.DType) -> tf.Tensor:
    whole = tf.reshape(tf.range(2 * n), (n, 2)) % 7
    return tf.complex(tf.cast(whole, tf.float32), 1.0) if dtype.is_complex else tf.cast(whole, dtype)


def _ragged(n: int, dtype: tf.DType = tf.float32) -> tf.RaggedTensor:
    return tf.cast(tf.ragged.range([i % 4 for i in range(n)]), dtype)


def _texts(n: int) -> tf.Tensor:
    return tf.constant([TEXTS[i % len(TEXTS)] for i in range(n)])


def _sparse(n: int) -> tf.SparseTensor:
    return tf.sparse.from_dense(tf.cast(_dense(n, tf.int32) % 3, tf.float32))


DTYPES = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int64", "float16", "bfloat16", "float64", "complex64"]
KINDS = {
    "string": _texts,
    "ragged": _ragged,
    "ragged strings": lambda n: tf.strings.split(_texts(n)),
    "ragged twice": lambda n: tf.RaggedTensor.from_row_lengths(_ragged(2 * n), [2] * n),
    "ragged last": lambda n: {"a": _dense(n, tf.float32), "z": _ragged(n)},
    "sparse": _sparse,
    "nested": lambda n: {"a": (_texts(n), _ragged(n)), "b": {"c": _sparse(n), "d": _dense(n, tf.int64)}},
    "dtypes": lambda n: {dtype: _dense(n, tf.as_dtype(dtype)) for dtype in DTYPES},
}


def dataset(kind: str, n: int) -> tf.data.Dataset:
    targets = tf.sin(tf.range(n, dtype=tf.float32))[:, None]
    return tf.data.Dataset.from_tensor_slices((KINDS[kind](n), targets))


def _numbers(leaf: Any) -> tf.Tensor:
    """Two numbers of each sample, whatever it is."""
    if isinstance(leaf, tf.SparseTensor):
        leaf = tf.sparse.to_dense(leaf)
    if isinstance(leaf, tf.RaggedTensor):
        leaf = leaf.with_values(_ones(leaf.values)) if leaf.dtype == tf.string else leaf
        while isinstance(leaf, tf.RaggedTensor):
            leaf = tf.reduce_sum(leaf, axis=-1)
    leaf = tf.strings.length(leaf) if leaf.dtype == tf.string else leaf
    leaf = tf.math.real(leaf) if leaf.dtype.is_complex else leaf
    return tf.reshape(tf.cast(leaf, tf.float32), (tf.shape(leaf)[0], -1))[:, :1]


def _ones(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(values), tf.float32)


class OfAnything(keras.Model):
    def __init__(self):
        super().__init__(autocast=False)
        keras.utils.set_random_seed(1)
        self.out = keras.layers.Dense(1)
        self.out.build((None, 1))
        self.built = True

    def call(self, x):
        leaves = tf.nest.flatten(x)
        return self.out(sum(_numbers(leaf) for leaf in leaves) / (5 * len(leaves)))


def train_on(kind: str, n: int, each: int) -> dict:
    made = OfAnything()
    made.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05)), "mse")
    data = hvd.data.shard(dataset(kind, n), batch_size=each)
    history = made.fit(data, epochs=2, verbose=0, callbacks=[hvd.callbacks.MetricAverageCallback()]).history
    return {
        "weights": [w.numpy() for w in made.weights],
        "loss": [float(v) for v in history["loss"]],
        "digests": [kinds.digest(batch) for batch, weight in data.batches(0) if weight],
    }


def text_dataset(n: int) -> tf.data.Dataset:
    return dataset("string", n)


def text_model(data: Any, n: int) -> list:
    keras.utils.set_random_seed(2)
    vectorize = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    vectorize.adapt(_texts(n))
    layers = [keras.layers.Embedding(20, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    made = keras.Sequential([keras.Input((), dtype="string"), vectorize, *layers])
    made.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.5)), "mse")
    made.fit(data, epochs=2, verbose=0)
    return [w.numpy() for w in made.trainable_weights]


class Texts(keras.utils.PyDataset):
    """Strings as NumPy has them, all in one array or as objects; a batch of it has one rank's samples."""

    def __init__(self, n: int, each: int, kind: str = "U"):
        super().__init__()
        self.texts = np.array(_texts(n).numpy().astype("U")).astype(kind)
        self.targets, self.each = np.sin(np.arange(n, dtype="float32"))[:, None], each

    def __len__(self):
        return math.ceil(len(self.texts) / self.each)

    def __getitem__(self, i):
        mine = slice(i * self.each, (i + 1) * self.each)
        return self.texts[mine], self.targets[mine]


class Reshuffled(keras.utils.PyDataset):
    """It chooses the samples of an epoch, and how many, in ``on_epoch_begin``, from an epoch that it counts.

    Args:
        at_once: batches of the one-process dataset are so many of these, one after the other.
        more: by how many samples epochs differ. (Keras itself asks for the number of batches before it begins.)
    """

    def __init__(self, at_once: int = 1, more: int = 6, **options: Any):
        super().__init__(**options)
        self.at_once, self.more, self.epochs, self.ended = at_once, more, 0, 0
        self.log, self.threads = [], set()
        self._choose()

    def _choose(self):
        self.order = np.random.default_rng(self.epochs).permutation(40)[: 24 + self.more * (self.epochs % 3)]

    def on_epoch_begin(self):
        self.epochs += 1
        self.log.append(f"begin {self.epochs}")
        self.threads.add(threading.current_thread() is threading.main_thread())
        self._choose()

    def on_epoch_end(self):
        self.ended = self.epochs
        self.threads.add(threading.current_thread() is threading.main_thread())

    def __len__(self):
        return math.ceil(len(self.order) / (EACH * self.at_once))

    def __getitem__(self, i):
        each = EACH * self.at_once
        chosen = self.order[i * each : (i + 1) * each].astype("float32")[:, None]
        return np.sin(chosen * [1, 2]).astype("float32"), np.cos(chosen)


class Log(keras.callbacks.Callback):
    def __init__(self, log: list):
        super().__init__()
        self.log = log

    def on_epoch_begin(self, epoch, logs=None):
        self.log.append(f"epoch {epoch}")


def reshuffled(at_once: int, workers: int, more: int, *, sharded: bool) -> dict:
    keras.utils.set_random_seed(4)
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(1)])
    made.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    train, validation = (Reshuffled(at_once, more, workers=workers) for _ in range(2))
    take = (lambda data: hvd.data.shard(data, shuffle=False)) if sharded else (lambda data: data)
    made.fit(
        take(train),
        validation_data=take(validation),
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[Log(train.log), hvd.callbacks.MetricAverageCallback()],
    )
    return {
        "weights": [w.numpy() for w in made.weights],
        "log": train.log,
        "begun": [train.epochs, validation.epochs],
        "ended": [train.ended, validation.ended],
        "in the main thread": train.threads == {True},
    }


def _error(call) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


class Given(keras.utils.PyDataset):
    """The same batch again and again; ``begin`` is called before each epoch."""

    def __init__(self, batch: Any, begin=lambda self: None, length: int = 4):
        super().__init__()
        self.batch, self.begin, self.length = batch, begin, length

    def on_epoch_begin(self):
        self.begin(self)

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return self.batch


def _fit(data: Any) -> None:
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    made.compile(hvd.DistributedOptimizer("sgd"), "mse")
    made.fit(hvd.data.shard(data), verbose=0)


def refused() -> dict:
    """What cannot be, each as the error of this rank."""
    numbers = tf.data.Dataset.range(8)
    x, y = np.zeros((2, 2), "float32"), np.zeros((2, 1), "float32")
    shard = lambda data, **how: lambda: hvd.data.shard(data, **how)
    unknown = numbers.map(lambda i: tf.py_function(lambda v: v, [i], tf.int64))
    array = lambda i: tf.TensorArray(tf.int64, 1).write(0, i)
    calls = {
        "window": shard(numbers.window(2)),
        "nested dataset": shard(numbers.window(2).map(lambda w: {"a": 1, "b": (2, w)}), batch_size=2),
        "variant": shard(numbers.map(lambda i: (i, _variant(i))), batch_size=2),
        "optional": shard(numbers.map(tf.experimental.Optional.from_value), batch_size=2),
        "array": shard(numbers.map(array), batch_size=2),
        "none": shard(numbers.map(lambda i: (i, None)), batch_size=2),
        "quantized": shard(tf.data.Dataset.from_tensors(tf.quantization.quantize([0.0], 0, 1, tf.qint8)[0])),
        "unknown shape": shard(unknown),
        "no batches": shard(numbers),
        "objects": shard(Given((np.array([{}, {}]), y))),
        "dates": shard(Given((np.zeros(2, "M8[s]"), y))),
        "python none": shard(Given((x, y, None))),
        "other texts": shard(tf.data.Dataset.from_tensor_slices([f"rank {hvd.rank()}", "same"]), batch_size=1),
        "other rows": shard(tf.data.Dataset.from_tensors(tf.ragged.constant([[1, 2], [3]][:: 1 - 2 * hvd.rank()][:2]))),
        "a begin that fails": lambda: _fit(Given((x, y), _fails_on_the_last)),
        "unequal epochs": lambda: _fit(Given((x, y), _as_long_as_its_rank)),
        "no batches left": lambda: _fit(Given((x, y), lambda self: setattr(self, "length", 0))),
    }
    return {name: _error(call) for name, call in calls.items()}


def _variant(_: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.EmptyTensorList(element_shape=-1, max_num_elements=1, element_dtype=tf.int64)


def _fails_on_the_last(self):
    if hvd.rank() == hvd.size() - 1:
        raise ValueError("its file is gone")


def _as_long_as_its_rank(self):
    self.length = 4 + hvd.rank()


def everything(wanted: list, epochs: list) -> dict:
    """All of it in one launch: a tail of one sample leaves the other ranks empty; so does a dataset of one sample."""
    full = 3 * EACH * hvd.size()
    found = {kind: train_on(kind, full + 1, EACH) for kind in wanted}
    for kind in ("ragged twice", "nested", "dtypes"):
        found[f"{kind}, one sample"] = train_on(kind, 1, EACH)
    found["texts"] = text_model(hvd.data.shard(text_dataset(full), batch_size=EACH), full)
    for kind in ("U", "S", "O"):
        found[f"texts {kind}"] = text_model(hvd.data.shard(Texts(full, EACH, kind), shuffle=False), full)
    found["reshuffled"] = {f"{w} {more}": reshuffled(1, w, more, sharded=True) for w, more in epochs}
    found["refused"] = refused()
    return found
