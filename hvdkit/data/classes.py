"""Weights against class imbalance, from the classes of all ranks together."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hvdkit.comm import exchange, world
from hvdkit.comm.consistency import assert_same_on_all_ranks, raise_on_any_rank
from hvdkit.errors import UsageError
from hvdkit.utils.deprecation import renamed_arguments
from hvdkit.utils.log import get_logger
from hvdkit.utils.numbers import by_class, flag

_NAME, _SHARD = "hvd.data.class_weights", "hvd.data.shard"  # the caller, as messages name it


@renamed_arguments(already_split="presharded")
def class_weights(y: Any, *, presharded: bool = False) -> dict[int, float]:
    """Compute class weights that balance the classes: samples / (classes * samples of the class).

    This is scikit-learn's ``class_weight="balanced"``, over the samples of all ranks. It is collective if the data are
    presharded.

    Args:
        y: integers of shape (n,) or (n, 1), or one-hot rows of shape (n, classes).
        presharded: this rank has only a part of the samples, so the ranks' counts are summed.

    Returns:
        A dict for ``hvd.data.shard(..., class_weight=...)``, the same on every rank.

    Raises:
        UsageError: ``y`` does not contain classes.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.data.class_weights([0, 0, 0, 1])
    {0: 0.6666666666666666, 1: 2.0}
    """
    presharded = flag(presharded, "presharded")
    classes = raise_on_any_rank("count its classes", lambda: _classes(y), by=_NAME) if presharded else _classes(y)
    values, counts = np.unique(classes, return_counts=True)
    own_counts = {str(c): int(n) for c, n in zip(values, counts, strict=True)}
    total: dict[int, int] = {}
    for part in exchange.allgather_object(own_counts, _NAME) if presharded else [own_counts]:
        for name, count in part.items():
            total[int(name)] = total.get(int(name), 0) + count
    n = sum(total.values())
    return {c: n / (len(total) * total[c]) for c in sorted(total)}


def check_class_weights(class_weight: Any, y: Any, *, presharded: bool) -> dict[int, float]:
    """Class weights that fit the targets of all ranks; collective.

    Args:
        class_weight: what the user gave: a dict, also with texts as keys, or ``"balanced"``.
        y: the targets.
        presharded: this rank has only a part of the samples.

    Raises:
        UsageError: they are none, or weigh classes that no sample has while classes of samples have no weight.
        CommunicationError: the ranks do not have the same ones.
    """
    if isinstance(class_weight, str) and class_weight == "balanced":
        return class_weights(y, presharded=presharded)
    parse = lambda: (by_class(class_weight), np.unique(_classes(y)).tolist())
    weights, present = raise_on_any_rank("take its class weights", parse, by=_SHARD)
    assert_same_on_all_ranks("their class weights", {str(c): w for c, w in weights.items()}, by=_SHARD)
    if presharded:
        per_rank = exchange.allgather_object(present, f"{_SHARD}: the classes of each rank")
        present = sorted({c for classes_of_rank in per_rank for c in classes_of_rank})
    absent, unweighted = sorted({*weights} - {*present}), sorted({*present} - {*weights})
    if absent and unweighted:
        raise UsageError(
            f"`class_weight` has weights for the classes {_listed(absent)}, which no sample has, and none for "
            f"{_listed(unweighted)}, which samples have.",
            fix="the classes as `y` has them, from 0 for one-hot rows; or leave out those that are not there.",
        )
    if absent and world.rank() == 0:
        get_logger().warning("class_weight has weights for the classes %s, which no sample has.", _listed(absent))
    return weights


def _listed(classes: list[int]) -> str:
    return ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")


def sample_weights(y: Any, class_weight: dict[int, float]) -> np.ndarray:
    """The weight of each sample by its class, float32; 1 for a class that has none."""
    values, which = np.unique(_classes(y), return_inverse=True)
    return np.asarray([class_weight.get(int(c), 1.0) for c in values], np.float32)[which]


def _classes(y: Any) -> np.ndarray:
    outputs = keras.tree.flatten(y) if keras.tree.is_nested(y) else []
    if y is None or any(len(getattr(output, "shape", ())) for output in outputs):
        raise UsageError(
            f"Class weights need targets of one output. Received: y={None if y is None else type(y).__name__}.",
            fix="sample_weight, which may have the structure of y.",
        )
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(axis=1)
    if y.ndim not in (1, 2) or y.dtype.kind not in "biuf" or not (y == y.astype(np.int64)).all():
        raise UsageError(
            "Class weights need `y` as whole numbers of shape (n,) or as one-hot rows. "
            f"Received: shape {y.shape}, {y.dtype}."
        )
    return y.reshape(-1).astype(np.int64)
