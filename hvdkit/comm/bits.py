"""Dtypes that a transport does not know, as others of the same size; and casts of arrays and tensors alike."""

from __future__ import annotations

from typing import Any

import numpy as np

# What moves and is not summed can be any bits.
NAMES = {"bfloat16": "uint16", "uint32": "int32", "uint64": "int64"}


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
