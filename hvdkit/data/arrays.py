"""Samples in arrays: NumPy's, TensorFlow's, memory-mapped ones, or whatever takes a list of row numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data.classes import sample_weights
from hvdkit.data.plan import permutation
from hvdkit.errors import UsageError


class Arrays:
    """Arrays with one sample per row.

    Args:
        x, y, sample_weight: an array, or a list, tuple or dict of arrays; None for none.
        class_weight: a weight for each class of ``y``, multiplied into ``sample_weight``.

    Raises:
        UsageError: their lengths differ.
    """

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: dict | None = None):
        if class_weight is not None:
            own = sample_weights(y, class_weight)
            sample_weight = own if sample_weight is None else own * np.asarray(sample_weight, np.float32)
        given: Any = (x, y, sample_weight)
        if sample_weight is None:  # as Keras packs them
            given = (x, y) if y is not None else (x,) if isinstance(x, list | tuple) else x
        self._leaves = [_array(leaf) for leaf in tf.nest.flatten(given)]
        self._structure = given
        lengths = {len(leaf) for leaf in self._leaves}
        if len(lengths) != 1:
            raise UsageError(f"The arrays have different numbers of samples: {sorted(lengths)}.")
        (self.samples,) = lengths
        if not self.samples:  # a rank without data: something of the right shape, which weighs nothing
            self._leaves = [np.zeros((1, *leaf.shape[1:]), leaf.dtype) for leaf in self._leaves]
        # TensorFlow gathers rows without Python's help, but of what it holds itself; a file stays on its disk.
        self._held = [_held(leaf) for leaf in self._leaves]

    failure = None

    def order(self, *, shuffle: bool, seeds: tuple[int, ...]) -> Callable[[int], np.ndarray]:
        """The order of an epoch: another permutation each time, or as they come."""
        if shuffle:
            return lambda epoch: permutation(self.samples, *seeds, epoch)
        return lambda epoch: np.arange(self.samples, dtype=np.int64)

    def take(self, rows: tf.Tensor) -> Any:
        taken = [_gather(held, leaf, rows) for held, leaf in zip(self._held, self._leaves, strict=True)]
        return tf.nest.pack_sequence_as(self._structure, taken)

    def state(self) -> dict[str, Any]:
        """The number of samples, and a digest of some."""
        digest = hashlib.sha256()
        for leaf in self._leaves:
            some = np.unique(np.linspace(0, len(leaf) - 1, 16).astype(int))
            digest.update(f"{leaf.dtype}{tuple(leaf.shape[1:])}".encode())
            digest.update(np.ascontiguousarray(leaf[some]).tobytes())
        return {"samples": self.samples, "sha256 of some samples": digest.hexdigest()[:16]}


def _array(leaf: Any) -> Any:
    if isinstance(leaf, tf.Tensor | tf.Variable):
        leaf = leaf.numpy()
    if hasattr(leaf, "to_numpy"):  # pandas
        leaf = leaf.to_numpy()
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    if not leaf.shape or getattr(leaf.dtype, "hasobject", False):
        raise UsageError(
            f"Samples must be arrays of numbers with a sample per row. Received: {leaf.dtype} of shape {leaf.shape}.",
            fix="NumPy arrays, a tf.data.Dataset, a keras.utils.PyDataset, or file names.",
        )
    return leaf


def _held(leaf: Any) -> tf.Tensor | None:
    if type(leaf) is not np.ndarray:
        return None
    with tf.device("CPU:0"):
        return tf.convert_to_tensor(leaf, _dtype(leaf))


def _dtype(leaf: Any) -> tf.DType:
    """Numbers with a fraction become Keras' floatx, as in ``fit`` itself."""
    return tf.as_dtype(keras.config.floatx()) if np.issubdtype(leaf.dtype, np.floating) else tf.as_dtype(leaf.dtype)


def _gather(held: tf.Tensor | None, leaf: Any, rows: tf.Tensor) -> tf.Tensor:
    if held is not None:
        return tf.gather(held, rows)

    def read(numbers: np.ndarray) -> np.ndarray:
        ordered, back = np.unique(numbers, return_inverse=True)  # HDF5 wants them in order
        return np.ascontiguousarray(np.asarray(leaf[ordered])[back])

    taken = tf.numpy_function(read, [rows], tf.as_dtype(leaf.dtype), stateful=False)
    return tf.cast(tf.ensure_shape(taken, (None, *leaf.shape[1:])), _dtype(leaf))
