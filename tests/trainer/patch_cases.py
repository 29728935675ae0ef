"""What hvdkit leaves changed of Keras and TensorFlow, on every rank."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd


def attributes() -> dict[str, dict[str, Any]]:
    """Every attribute of every class and function of Keras, and of what else hvdkit wraps, by the class' name."""
    rooms = [m for name, m in sys.modules.items() if name.split(".")[0] == "keras" and m is not None]
    things = [t for room in rooms for t in vars(room).values() if isinstance(t, type)]
    things += [tf.GradientTape, tf.Variable, tf.data.Dataset, tf.Module, *rooms]
    from tensorflow.python.eager.polymorphic_function import atomic_function

    things.append(atomic_function)
    plain = lambda thing: {k: v for k, v in vars(thing).items() if not k.startswith(("_abc_", "__"))}
    special = ("__init__", "__enter__", "__exit__", "__new__", "__call__")
    return {
        f"{getattr(t, '__module__', '')}.{t.__name__}.{id(t)}": plain(t) | {k: vars(t).get(k) for k in special}
        for t in things
    }


def changed(before: dict, after: dict) -> list[str]:
    """The names of the attributes that are not the same objects, among what was there before."""
    return sorted(
        f"{name}.{attribute}"
        for name in before
        for attribute in before[name].keys() | after[name].keys()
        if before[name].get(attribute) is not after[name].get(attribute)
    )


def train(scaled: bool = False) -> None:
    """Everything that is wrapped is used: sharded data, a loss scale, evaluation, an optimizer that is made."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.01))
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse")
    x = np.ones((10, 3), np.float32)
    data = hvd.data.shard(x, x.sum(1), batch_size=2)
    model.fit(data, validation_data=data, verbose=0)
    model.evaluate(data, verbose=0)
    model.predict(x, verbose=0)


def plain_model() -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def lifetimes() -> dict[str, list[str]]:
    """What is changed after ``init``, by what is made afterwards, and after ``shutdown``; twice.

    Models without a distributed optimizer, which were trained before ``shutdown``, are trained on after it.
    """
    x = np.ones((10, 3), np.float32)
    weights = np.ones(10)  # another signature: the step is traced again
    hvd.init()  # what is imported lazily is there
    train()
    train(scaled=True)
    hvd.shutdown()
    out: dict[str, list[str]] = {}
    alone, by_batch = plain_model(), plain_model()
    before = attributes()
    for time in ("first", "second"):
        hvd.init()
        begun = attributes()
        out[f"{time} init"] = changed(before, begun)
        train(scaled=time == "first")
        with hvd.local_training():
            alone.fit(x, x.sum(1), verbose=0)
        by_batch.train_on_batch(x, x.sum(1))
        out[f"{time} training"] = changed(begun, attributes())
        hvd.shutdown()
        out[f"{time} shutdown"] = changed(before, attributes())
        for model in (alone, by_batch):
            model.fit(x, x.sum(1), sample_weight=weights, verbose=0)
            model.evaluate(x, x.sum(1), verbose=0)
    hvd.init()  # who takes the result asks for the rank
    return out
