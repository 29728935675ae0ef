"""What the components of a batch may be: dense, ragged and sparse tensors of all dtypes that have values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data import dtypes
from hvdkit.errors import UsageError
from hvdkit.keras_internals.data import is_scipy_sparse, scipy_sparse_to_tf_sparse

_KINDS = (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)


def check_components(spec: Any) -> None:
    """Refuse components that are no tensors with values.

    Args:
        spec: of a dataset's elements.

    Raises:
        UsageError: there is one; it is named, with its kind.
    """
    for path, leaf in keras.tree.flatten_with_path(spec):
        kind = type(leaf).__name__.removesuffix("Spec")
        if isinstance(leaf, _KINDS):
            kind = f"tensor of {leaf.dtype.name}"
            if not (leaf.dtype in (tf.variant, tf.resource) or leaf.dtype.is_quantized):
                continue
        raise UsageError(
            f"{_component(path)} is a {kind}, which cannot be sharded over ranks: it must be a dense, ragged or "
            "sparse tensor of numbers, bools or strings.",
            fix="leave it out, or make tensors of it by `.map`; of a nested dataset, as `.window` makes them, by "
            "`.flat_map(lambda window: window.batch(size))`.",
        )


def check_samples(spec: Any) -> None:
    """Refuse batches with a component that has no axis of samples, or a shape of unknown rank.

    Args:
        spec: of batches.

    Raises:
        UsageError: there is one; it is named.
    """
    for path, leaf in keras.tree.flatten_with_path(spec):
        if leaf.shape.rank is None:
            raise UsageError(
                f"{_component(path)} has a shape of unknown rank.", fix="`.map` it through tf.ensure_shape."
            )
        if not leaf.shape.rank:
            raise UsageError(
                f"{_component(path)} has no axis of samples: the elements are taken as batches.",
                fix="pass batch_size if the elements are samples.",
            )


def _component(path: tuple) -> str:
    return f"Component {''.join(f'[{key!r}]' for key in path)} of the data" if path else "The data's element"


def any_number(spec: tf.TypeSpec, shape: tf.TensorShape | None = None) -> tf.TypeSpec:
    """The specification of a batch of any number of samples; ``shape`` in the place of its own."""
    shape = (None, *(spec.shape if shape is None else shape)[1:])
    if isinstance(spec, tf.RaggedTensorSpec) and spec.ragged_rank:
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype)
    kind = tf.SparseTensorSpec if isinstance(spec, tf.SparseTensorSpec) else tf.TensorSpec
    return kind(shape, spec.dtype)


def spec_of(batches: Sequence[Any]) -> Any:
    """The specification that some batches have in common; an axis in which they differ has no length."""

    def common(*leaves: Any) -> tf.TypeSpec:
        shape = tf.TensorShape(leaves[0].shape)
        for leaf in leaves[1:]:
            shape = shape.most_specific_compatible_shape(leaf.shape)
        spec = tf.type_spec_from_value(leaves[0])
        if not shape.rank:  # of unlike ranks, or none: check_samples says so
            return tf.TensorSpec(shape, spec.dtype)
        return any_number(spec, shape)

    return tf.nest.map_structure(common, *batches)


def tensors_of(batch: Any) -> Any:
    """A batch that Python made, as arrays and tensors; lists as tuples, since tf.data makes one tensor of a list.

    Raises:
        UsageError: a component has no dtype of TensorFlow; it is named.
    """
    batch = keras.tree.lists_to_tuples(batch)
    if not _is_keras_tree(batch):
        return tf.nest.map_structure(lambda leaf: _tensor_of((), leaf), batch)
    leaves = [_tensor_of(path, leaf) for path, leaf in _with_paths(batch)]
    return keras.tree.pack_sequence_as(batch, leaves)  # the two have ordered dicts in different orders


def _is_keras_tree(batch: Any) -> bool:
    return len(keras.tree.flatten(batch)) == len(tf.nest.flatten(batch))


def _with_paths(batch: Any) -> list:
    if _is_keras_tree(batch):
        return keras.tree.flatten_with_path(batch)
    return [((), leaf) for leaf in tf.nest.flatten(batch)]


def _tensor_of(path: tuple, leaf: Any) -> Any:
    if tf.is_tensor(leaf):
        return tf.convert_to_tensor(leaf) if isinstance(leaf, tf.Variable) else leaf
    if is_scipy_sparse(leaf):
        return tensor_of_scipy(leaf, _component(path))
    if leaf is None:
        raise UsageError(f"{_component(path)} is None, of which Keras makes no tensor.", fix="leave it out.")
    array = np.asarray(leaf)
    if dtypes.is_text(array):
        return tf.constant(dtypes.native(array), tf.string)
    dtypes.tensorflow_dtype(array.dtype, _component(path))
    return dtypes.native(array)


def tensor_of_scipy(matrix: Any, what: str) -> tf.SparseTensor:
    """A sparse matrix of scipy's as a tensor.

    Raises:
        UsageError: it is none with two axes, or of a dtype that has no tensors; it is named.
    """
    if len(matrix.shape) != 2:
        axes = len(matrix.shape)
        raise UsageError(f"{what} is a sparse array with {axes} axes; of scipy's, only those with 2 are taken.")
    dtypes.tensorflow_dtype(matrix.dtype, what)
    return tf.sparse.reorder(scipy_sparse_to_tf_sparse(matrix.tocsr()))


def digest(element: Any) -> str:
    """What two elements have in common only where their structures, dtypes, shapes and values are the same."""
    sha256 = hashlib.sha256()
    for path, leaf in _with_paths(element):
        sha256.update(f"{path}{type(leaf).__name__ if _is_composite(leaf) else ''}".encode())
        for part in tf.nest.flatten(leaf, expand_composites=True):
            array = np.ascontiguousarray(part)
            sha256.update(f"{array.dtype}{np.shape(part)}".encode())
            if array.dtype.hasobject:  # strings: the array itself holds their addresses
                for text in array.ravel().tolist():
                    sha256.update(len(text).to_bytes(8, "little") + text)
            else:
                sha256.update(array.tobytes())
    return sha256.hexdigest()[:16]


def _is_composite(leaf: Any) -> bool:
    return isinstance(leaf, tf.RaggedTensor | tf.SparseTensor)


def count_samples(batch: Any) -> int:
    """How many samples a batch has."""
    first = tf.nest.flatten(batch)[0]
    if isinstance(first, tf.RaggedTensor):
        return int(first.nrows())
    return int(first.dense_shape[0] if isinstance(first, tf.SparseTensor) else first.shape[0])


def stand_in(spec: Any, last: Any) -> Any:
    """One sample of the right kind: of the last batch, where there is one."""
    with tf.device("CPU:0"):
        return tf.nest.map_structure(_nothing, spec) if last is None else tf.nest.map_structure(_first_sample, last)


def _first_sample(leaf: Any) -> Any:
    if isinstance(leaf, tf.SparseTensor):
        shape = leaf.dense_shape
        return tf.sparse.slice(leaf, tf.zeros_like(shape), tf.concat([[1], shape[1:]], 0))
    return leaf[:1]


def _nothing(spec: tf.TypeSpec) -> Any:
    shape = (1, *(1 if n is None else n for n in spec.shape[1:]))
    if isinstance(spec, tf.SparseTensorSpec):
        return tf.SparseTensor(tf.zeros((0, len(shape)), tf.int64), tf.zeros((0,), spec.dtype), shape)
    zeros = tf.zeros(shape, spec.dtype)
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensor.from_tensor(zeros, ragged_rank=spec.ragged_rank, row_splits_dtype=spec.row_splits_dtype)
    return zeros
