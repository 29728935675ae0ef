"""NumPy functions as operations of a graph, one after the other in the order of the program.

Without negotiation, ranks recognise a collective by its place, so each rank must keep the program's order. Inside a
``tf.function`` ``graph_order`` sees to that, in branches, loops and functions that it calls too. A test lets two ranks
disagree about which one is ready first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from hvdkit.engines.mpi import COLLECTIVE


def eager() -> bool:
    """Whether what is called now is done now; without TensorFlow everything is."""
    tf = sys.modules.get("tensorflow")
    return tf is None or tf.executing_eagerly()


def call_numpy(function: Callable[..., list], tensors: list, dtypes: list) -> list:
    """``function`` of the tensors' values, now or when the graph runs.

    Args:
        function: takes NumPy arrays and returns a list of NumPy arrays.
        tensors: its arguments.
        dtypes: of what it returns.

    Returns:
        Tensors, without static shapes inside a graph.
    """
    import tensorflow as tf

    with tf.device("CPU:0"):
        if eager():
            return [tf.convert_to_tensor(a) for a in function(*[np.asarray(t) for t in tensors])]
        made = tf.numpy_function(function, tensors, dtypes, stateful=True, name=COLLECTIVE)
        return list(made) if isinstance(made, list | tuple) else [made]
