"""One array of samples, of whatever kind Keras takes, and how to gather some of its rows.

Dense arrays, ragged and sparse tensors are held by TensorFlow, which gathers rows without Python's help. What lies on a
disk stays there: memory-mapped arrays, and whatever takes a list of row numbers (h5py, zarr).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data import dtypes, kinds
from hvdkit.errors import UsageError
from hvdkit.keras_internals.data import (
    is_scipy_sparse,
    slice_tensorflow_sparse_wrapper,
    to_tensorflow_sparse_wrapper,
)

_FIX = "NumPy arrays, a tf.data.Dataset, a keras.utils.PyDataset, or file names."


class Rows:
    """Rows of a dense or ragged tensor that TensorFlow holds.

    Args:
        tensor: with a sample per row.

    Attributes:
        samples: how many rows there are.
    """

    def __init__(self, tensor: Any):
        self.samples = int(tensor.nrows() if isinstance(tensor, tf.RaggedTensor) else tensor.shape[0])
        if not self.samples:  # a rank without data: something of the right shape, which weighs nothing
            tensor = kinds.stand_in(tf.type_spec_from_value(tensor), None)
        self._tensor = self._prepared(tensor)

    def _prepared(self, tensor: Any) -> Any:
        return tensor

    def take(self, rows: tf.Tensor) -> Any:
        """The rows with these numbers, as a tensor."""
        return tf.gather(self._tensor, rows)

    def digest(self) -> bytes:
        """What tells these samples from others, by some of them."""
        return kinds.digest(self.take(tf.constant(_some(max(self.samples, 1))))).encode()


class _Sparse(Rows):
    def _prepared(self, tensor: tf.SparseTensor) -> Any:
        return to_tensorflow_sparse_wrapper(tf.sparse.reorder(tensor))

    def take(self, rows: tf.Tensor) -> tf.SparseTensor:
        return slice_tensorflow_sparse_wrapper(self._tensor, rows)


class _Dense(Rows):
    """Rows of an array of numbers in memory."""

    def __init__(self, array: np.ndarray, dtype: np.dtype):
        self._digest = _digest(array)
        super().__init__(_tensor(dtypes.native(array, dtype)))

    def digest(self) -> bytes:
        return self._digest


class _OnDisk:
    """Rows that are read when they are wanted."""

    def __init__(self, array: Any, dtype: np.dtype, what: str):
        self._array, self._dtype, self._what = array, dtype, what
        self._shape = tuple(array.shape)
        self.samples = int(self._shape[0])
        self.failure: Exception | None = None

    def take(self, rows: tf.Tensor) -> tf.Tensor:
        taken = tf.numpy_function(self._read, [rows], tf.as_dtype(self._dtype), stateful=False)
        return tf.ensure_shape(taken, (None, *self._shape[1:]))

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        ordered, back = np.unique(numbers, return_inverse=True)  # HDF5 wants them in order
        try:
            values = np.asarray(self._array[ordered])[back]
        except Exception as error:
            message = f"{self._what} cannot be read: {type(error).__name__}: {error}."
            self.failure = UsageError(message, fix="keep its file open, and as it is, until the training is over.")
            raise self.failure from error
        return np.ascontiguousarray(dtypes.native(values, self._dtype))

    def digest(self) -> bytes:
        return _digest(self._array)


def rows_of(leaf: Any, what: str) -> Rows | _OnDisk | None:
    """An object that gathers rows of an array, a tensor or the like; None of None, which some targets may be.

    Args:
        leaf: what the user gave.
        what: its name, as the error says it.

    Raises:
        UsageError: it has no samples that Keras could train on.
    """
    if leaf is None:
        return None
    if isinstance(leaf, tf.RaggedTensor):
        return Rows(_as_floatx(leaf, what))
    if isinstance(leaf, tf.SparseTensor) or is_scipy_sparse(leaf):
        return _Sparse(_as_floatx(leaf if tf.is_tensor(leaf) else kinds.tensor_of_scipy(leaf, what), what))
    array = _array(leaf, what)
    if type(array) is np.ndarray and (array.dtype.kind == "O" or dtypes.is_text(array)):
        if not dtypes.is_text(array):
            raise dtypes.unsupported_dtype(array.dtype, what)
        return Rows(_tensor(dtypes.native(array)))
    dtype = np.dtype(_floatx(dtypes.tensorflow_dtype(array.dtype, what)).as_numpy_dtype)
    if type(array) is np.ndarray or not array.shape[0]:
        return _Dense(np.asarray(array[:]), dtype)
    return _OnDisk(array, dtype, what)


def _array(leaf: Any, what: str) -> Any:
    """An array of NumPy's, or something like it that lies on a disk."""
    if hasattr(leaf, "to_numpy"):
        leaf = _of_frame(leaf)
    lazy = isinstance(leaf, np.memmap) or not isinstance(leaf, np.ndarray)
    is_array = isinstance(getattr(leaf, "dtype", None), np.dtype) and hasattr(leaf, "shape")
    if not is_array and not hasattr(leaf, "__array__"):
        raise UsageError(f"{what} is not an array: it is of type {type(leaf).__name__}.", fix=_way_out(leaf, what))
    if not (is_array and lazy and hasattr(leaf, "__getitem__")) or leaf.dtype.kind in "OSUT" or tf.is_tensor(leaf):
        leaf = np.asarray(leaf)
    if not leaf.shape:
        raise UsageError(
            f"Samples must be arrays with a sample per row, but {what} is a single value of {leaf.dtype}.", fix=_FIX
        )
    return leaf


def _of_frame(leaf: Any) -> Any:
    """A frame or a series, as Keras has it: of one of pandas numbers of one dtype, and of a series a column."""
    if type(leaf).__module__.partition(".")[0] != "pandas":
        return leaf.to_numpy()
    dtype_kinds = {dtype.kind for dtype in leaf.dtypes} if leaf.ndim == 2 else set()
    if "f" in dtype_kinds and dtype_kinds <= set("biuf"):
        leaf = leaf.astype(keras.config.floatx())
    array = leaf.to_numpy()
    return array[:, None] if array.ndim == 1 else array


def _way_out(leaf: Any, what: str) -> str:
    if isinstance(leaf, str | bytes | int | float | np.generic):
        whole = what.strip("`").partition("[")[0]
        return f"np.array({whole}): of a list each element is taken for an input or a target of its own."
    if hasattr(leaf, "__iter__"):
        return "tf.data.Dataset.from_generator(...), which can be read once in each epoch, or NumPy arrays."
    return _FIX


def _floatx(dtype: tf.DType) -> tf.DType:
    """Numbers with a fraction become Keras' floatx, as in ``fit`` itself."""
    is_float = dtype != tf.string and keras.backend.is_float_dtype(dtype.name)
    return tf.as_dtype(keras.config.floatx()) if is_float else dtype


def _as_floatx(tensor: Any, what: str) -> Any:
    """A ragged or sparse tensor as Keras takes it."""
    if tensor.shape.rank is None:
        raise UsageError(f"{what} has a shape of unknown rank.", fix="tf.ensure_shape.")
    wanted = _floatx(tensor.dtype)
    return tensor if tensor.dtype == wanted else tf.cast(tensor, wanted)


def _tensor(array: np.ndarray) -> tf.Tensor:
    with tf.device("CPU:0"):
        return tf.convert_to_tensor(array, tf.string if array.dtype.kind == "O" else None)


def _some(samples: int) -> np.ndarray:
    return np.unique(np.linspace(0, samples - 1, 16).astype(int))


def _digest(array: Any) -> bytes:
    some = dtypes.native(
        np.asarray(array[_some(len(array))] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype))
    )
    head = f"{some.dtype}{tuple(array.shape[1:])}".encode()
    return head + np.ascontiguousarray(some).tobytes()
