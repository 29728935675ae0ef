"""Samples in arrays, and in lists, tuples and dicts of them, as Keras' ``fit`` takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.data import rows
from hvdkit.data.classes import sample_weights
from hvdkit.data.epoch_plan import permutation
from hvdkit.errors import UsageError

_NAMES = ("x", "y", "sample_weight")


class Arrays:
    """Arrays with one sample per row.

    Args:
        x, y, sample_weight: an array, or lists, tuples and dicts of arrays, however deep; None for none.
        class_weight: a weight for each class of ``y``, multiplied into ``sample_weight``.

    Attributes:
        samples: how many there are.

    Raises:
        UsageError: their lengths differ, or one is no array of samples; it is named.
    """

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: dict[int, float] | None = None):
        if sample_weight is not None and y is None:
            raise UsageError("`sample_weight` needs `y`: without targets there is no loss to weight.")
        if class_weight is not None:
            sample_weight = _by_class(y, sample_weight, class_weight)
        if sample_weight is not None:
            sample_weight = _for_outputs(y, sample_weight)
        named = [each for name, part in zip(_NAMES, (x, y, sample_weight), strict=True) for each in _named(name, part)]
        parts = {what: rows.rows_of(leaf, what) for what, leaf in named}
        lengths = {what: part.samples for what, part in parts.items() if part is not None}
        if not lengths:
            raise UsageError("`x` contains no array of samples.")
        if len(set(lengths.values())) > 1:
            lengths_text = ", ".join(f"{what} {length}" for what, length in lengths.items())
            raise UsageError(f"The arrays have different numbers of samples: {lengths_text}.")
        self.samples = next(iter(lengths.values()))
        self._rows = list(parts.values())
        given = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        self._structure = keras.tree.lists_to_tuples(given)  # as Keras; tf.data would make one tensor of a list

    def order(self, *, shuffle: bool, seeds: tuple[int, ...]) -> Callable[[int], np.ndarray]:
        """The order of an epoch: another permutation each time, or as they come."""
        if shuffle:
            return lambda epoch: permutation(self.samples, *seeds, epoch)
        return lambda epoch: np.arange(self.samples, dtype=np.int64)

    def take(self, rows: tf.Tensor) -> Any:
        """The samples with these numbers."""
        taken = [None if part is None else part.take(rows) for part in self._rows]
        return keras.tree.pack_sequence_as(self._structure, taken)

    @property
    def failure(self) -> Exception | None:
        """Why samples could not be read, when they could not."""
        return next((f for f in (getattr(part, "failure", None) for part in self._rows) if f is not None), None)

    def forget_failure(self) -> None:
        """Begin anew."""
        for part in self._rows:
            if getattr(part, "failure", None) is not None:
                part.failure = None

    def state(self) -> dict[str, Any]:
        """The number of samples, and a digest of some."""
        digest = hashlib.sha256(b"".join(part.digest() for part in self._rows if part is not None))
        return {"samples": self.samples, "sha256 of some samples": digest.hexdigest()[:16]}


def _named(name: str, part: Any) -> list[tuple[str, Any]]:
    """Each array, with its name for errors: ``x[0]``."""
    try:
        tf.nest.flatten(part)
        leaves = keras.tree.flatten_with_path(part)
    except TypeError as error:
        raise UsageError(f"`{name}` holds a dict whose keys have no order: {error}.", fix="keys of text.") from error
    if part is None:
        return []
    return [(f"`{name}{''.join(f'[{key!r}]' for key in path)}`", leaf) for path, leaf in leaves]


def _by_class(y: Any, sample_weight: Any, class_weight: dict[int, float]) -> Any:
    own = sample_weights(y, class_weight)
    if sample_weight is None:
        return own
    if keras.tree.is_nested(sample_weight):
        raise UsageError("`sample_weight` must be one array if there are class weights.", fix="pass np.array(...).")
    weights = np.asarray(sample_weight, np.float32)
    if weights.shape[:1] != own.shape:
        raise UsageError(
            f"The arrays have different numbers of samples: `sample_weight` {weights.shape}, `y` {own.shape}."
        )
    return own.reshape(-1, *[1] * (weights.ndim - 1)) * weights


def _for_outputs(y: Any, sample_weight: Any) -> Any:
    """The weights in the structure of the targets, as in ``fit``: one array is for all outputs."""
    if keras.tree.is_nested(y) and not keras.tree.is_nested(sample_weight):
        return keras.tree.map_structure(lambda _: sample_weight, y)
    try:
        keras.tree.assert_same_structure(y, sample_weight)
    except (TypeError, ValueError):
        raise UsageError(
            "`sample_weight` must be one array, or have the structure of `y`: an array, or None, for each output."
        ) from None
    return sample_weight
