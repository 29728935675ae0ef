"""Which arrays TensorFlow has tensors for, and how they are handed to it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.errors import UsageError


def tensorflow_dtype(dtype: np.dtype, what: str) -> tf.DType:
    """The dtype of TensorFlow for arrays with a dtype of NumPy: numbers, bools and texts.

    Args:
        dtype: of NumPy; of one with objects it is unknown whether they are texts, see ``is_text``.
        what: the array, as the error names it.

    Raises:
        UsageError: there is none.

    Example:

    >>> tensorflow_dtype(np.dtype(">f4"), "`x`"), tensorflow_dtype(np.dtype("<U5"), "`x`")
    (tf.float32, tf.string)
    """
    if dtype.kind in "SUT":
        return tf.string
    try:
        return tf.as_dtype(keras.backend.standardize_dtype(dtype))
    except ValueError:
        raise unsupported_dtype(dtype, what) from None


def unsupported_dtype(dtype: np.dtype, what: str) -> UsageError:
    """The error that says that an array has values of which Keras makes no tensor, and the way out."""
    return UsageError(f"{what} is an array of {dtype}, of which Keras makes no tensor.", fix=_way_out(dtype))


def _way_out(dtype: np.dtype) -> str:
    if dtype.names:
        return f"an array for each field: {{name: x[name] for name in {list(dtype.names)}}}."
    if dtype.kind in "mM":
        return 'numbers: x.astype("int64"), or (x - x.min()) / np.timedelta64(1, "D") for days.'
    if dtype.kind in "fc":
        return f'a smaller dtype: x.astype("{"float64" if dtype.kind == "f" else "complex128"}").'
    if dtype.kind == "O":
        return "numbers, bools or texts of one kind and shape; rows of unequal lengths as tf.ragged.constant(rows)."
    return "numbers, bools or texts."


def is_text(array: np.ndarray) -> bool:
    """Whether an array holds texts: NumPy's, or objects that are all ``str`` or ``bytes``.

    Example:

    >>> is_text(np.array(["a", b"b"], object)), is_text(np.array([1, None]))
    (True, False)
    """
    return array.dtype.kind in "SUT" or (
        array.dtype.kind == "O" and all(isinstance(each, str | bytes) for each in array.ravel())
    )


def native(array: np.ndarray, dtype: Any = None) -> np.ndarray:
    """An array as TensorFlow's functions take it: in this machine's byte order, texts as objects; the same if it is so.

    Args:
        array: NumPy's.
        dtype: of NumPy, to make it that; None leaves it.

    Example:

    >>> native(np.array([1.0, 2.0], ">f4")).dtype, native(np.array(["a"], ">U1")).tolist()
    (dtype('float32'), ['a'])
    """
    if array.dtype.kind in "SUTO":
        return array.astype(object, copy=False)
    wanted = array.dtype if dtype is None else np.dtype(dtype)
    return array.astype(wanted if wanted.isnative else wanted.newbyteorder("="), copy=False)
