"""How Keras' loop takes its data: adapters and epochs, and what Keras does with sparse arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keras.src.trainers.data_adapters.array_slicing import (
    slice_tensorflow_sparse_wrapper,
    to_tensorflow_sparse_wrapper,
)
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.data_adapter_utils import is_scipy_sparse, scipy_sparse_to_tf_sparse
from keras.src.trainers.epoch_iterator import EpochIterator

__all__ = [
    "DataAdapter",
    "EpochIterator",
    "distributed_dataset",
    "is_scipy_sparse",
    "iterator_of",
    "scipy_sparse_to_tf_sparse",
    "set_num_batches",
    "slice_tensorflow_sparse_wrapper",
    "to_tensorflow_sparse_wrapper",
]


def set_num_batches(epoch: EpochIterator, number: int | None) -> None:
    """Say how many batches the epoch has, which Keras asks its data only once."""
    epoch._num_batches = number


def iterator_of(epoch: EpochIterator) -> Iterator:
    """What the epoch's steps take their batches from."""
    return iter(epoch._get_iterator())


def distributed_dataset(epoch: Any) -> Any:
    """The dataset of an epoch, over the replicas of a strategy where there is one; None where there is none."""
    return getattr(epoch, "_distributed_dataset", None)
