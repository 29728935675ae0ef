"""Dtypes that a transport does not know, as others of the same size; casts and factors of arrays and tensors alike."""

from __future__ import annotations

from typing import Any

import numpy as np

# What moves and is not summed can be any bits.
NAMES = {"bfloat16": "uint16", "uint32": "int32", "uint64": "int64"}
_HALVES = {"float16": "float32", "bfloat16": "float32"}


def sendable(tensor: Any) -> Any:
    """The tensor as a transport knows it."""
    import tensorflow as tf

    return tf.bitcast(tensor, NAMES[tensor.dtype.name]) if tensor.dtype.name in NAMES else tensor


def restored(received: Any, tensor: Any) -> Any:
    """What was received, in the dtype of the tensor that was sent."""
    import tensorflow as tf

    return tf.bitcast(received, tensor.dtype) if tensor.dtype.name in NAMES else received


def cast(value: Any, dtype: str) -> Any:
    """An array or a tensor in another dtype."""
    if isinstance(value, list | tuple | np.ndarray):
        return np.asarray(value).astype(dtype)
    import tensorflow as tf

    return tf.cast(value, dtype)


def scaled(value: Any, factor: float) -> Any:
    """An array or a tensor times a number, as Horovod does it.

    Whole numbers are multiplied in float64 and cut off to their dtype, halves in float32, others as they are.

    Example:

    >>> scaled(np.array([3, 5]), 0.5)
    array([1, 2])
    """
    if factor == 1.0:
        return value
    name = value.dtype.name
    wide = "float64" if name.startswith(("int", "uint", "bool")) else _HALVES.get(name, name)
    if isinstance(value, np.ndarray):
        return (value.astype(wide) * np.dtype(wide).type(factor)).astype(value.dtype)
    import tensorflow as tf

    return cast(cast(value, wide) * tf.constant(factor, wide), name)  # tf.cast would make the factor float32 first
