"""What collectives are given and give back: NumPy for NumPy, TensorFlow for TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from hvdkit.comm.engine import Engine


def run_collective(engine: Engine, collective: Callable[[list], list], values: list, *, arrays: bool = True) -> list:
    """Hand tensors to the engine as TensorFlow's, and NumPy back to whom gave NumPy; ``arrays`` may go as they are."""
    values = [unwrap_variable(value) for value in values]
    in_tensorflow = any(is_tensorflow(value) for value in values)
    tf = sys.modules.get("tensorflow")
    eager = tf is None or tf.executing_eagerly()
    direct = engine.supports_numpy and (engine.size == 1 or (arrays and eager))
    if direct and not in_tensorflow:
        return [np.asarray(out) for out in collective([np.asarray(value) for value in values])]
    import tensorflow as tf

    if in_tensorflow or not eager:
        return collective([tf.convert_to_tensor(value) for value in values])
    # Host data stays on the host: on a GPU build these would otherwise travel there and back.
    with tf.device("CPU:0"):
        return [np.asarray(out) for out in collective([tf.constant(np.asarray(value)) for value in values])]


def unwrap_variable(value: Any) -> Any:
    """A Keras variable is not a TensorFlow one: its ``.value`` is."""
    keras = sys.modules.get("keras")
    return value.value if keras is not None and isinstance(value, keras.Variable) else value


def is_tensorflow(value: Any) -> bool:
    tf = sys.modules.get("tensorflow")
    # tf.is_tensor takes ten microseconds to say no.
    return tf is not None and type(value) is not np.ndarray and (tf.is_tensor(value) or isinstance(value, tf.Variable))


def is_slices(value: Any) -> bool:
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(value, tf.IndexedSlices)


def own_rows(tensor: Any, rank: int, size: int) -> Any:
    """A rank's share of the rows of a tensor or an array; uneven rows go to the first ranks."""
    rows, smaller = tensor.shape[0], min
    if rows is None:
        import tensorflow as tf

        rows, smaller = tf.shape(tensor)[0], tf.minimum
    each, more = rows // size, rows % size
    begin = rank * each + smaller(rank, more)
    return tensor[begin : begin + each + (smaller(rank + 1, more) - smaller(rank, more))]
