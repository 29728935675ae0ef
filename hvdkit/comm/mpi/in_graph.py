"""NumPy functions as operations of a graph, one after the other in the order of the program.

Without negotiation, ranks recognise a collective by its place. TensorFlow starts operations in any order, another one
on each rank: a variable that each collective reads before and writes after keeps the program's, in branches and loops.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


@functools.cache
def _order() -> Any:
    import tensorflow as tf

    with tf.init_scope(), tf.device("CPU:0"):
        return tf.Variable(0, dtype=tf.int64, trainable=False, name="hvdkit_order")


def eager() -> bool:
    """Whether what is called now is done now; without TensorFlow everything is."""
    tf = sys.modules.get("tensorflow")
    return tf is None or tf.executing_eagerly()


def call(function: Callable[..., list], tensors: list, dtypes: list) -> list:
    """``function`` of the tensors' values, now or when the graph runs.

    Args:
        function: takes NumPy arrays, which it must not change, and returns a list of NumPy arrays.
        tensors: its arguments.
        dtypes: of what it returns.

    Returns:
        Tensors, without static shapes inside a graph.
    """
    import tensorflow as tf

    with tf.device("CPU:0"):
        if eager():
            return [tf.convert_to_tensor(a) for a in function(*[np.asarray(t) for t in tensors])]
        order = _order()
        with tf.control_dependencies([order.read_value()]):
            made = tf.numpy_function(function, tensors, dtypes)
        made = list(made) if isinstance(made, list | tuple) else [made]
        with tf.control_dependencies(made):
            order.assign_add(1)
        return made
