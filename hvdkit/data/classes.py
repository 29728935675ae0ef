"""Weights against class imbalance, from the classes of all ranks together."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdkit.comm import exchange
from hvdkit.errors import UsageError


def class_weights(y: Any, *, already_split: bool = False) -> dict[int, float]:
    """The weight of each class so that all weigh alike: samples / (classes * samples of the class).

    scikit-learn's ``class_weight="balanced"``, over the samples of all ranks. Collective where the data is split.

    Args:
        y: whole numbers of shape (n,) or (n, 1), or one-hot rows of shape (n, classes).
        already_split: this rank has only a part of the samples; the ranks' counts are added up.

    Returns:
        A dict for ``hvd.data.shard(..., class_weight=...)``, the same on every rank.

    Raises:
        UsageError: ``y`` holds no classes.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.data.class_weights([0, 0, 0, 1])
    {0: 0.6666666666666666, 1: 2.0}
    """
    found, counts = np.unique(_classes(y), return_counts=True)
    mine = {str(c): int(n) for c, n in zip(found, counts, strict=True)}
    total: dict[int, int] = {}
    for part in exchange.allgather_object(mine, "hvd.data.class_weights") if already_split else [mine]:
        for name, count in part.items():
            total[int(name)] = total.get(int(name), 0) + count
    n = sum(total.values())
    return {c: n / (len(total) * total[c]) for c in sorted(total)}


def sample_weights(y: Any, class_weight: dict) -> np.ndarray:
    """The weight of each sample by its class, float32; 1 for a class that has none."""
    classes = _classes(y)
    found, which = np.unique(classes, return_inverse=True)
    return np.asarray([class_weight.get(int(c), 1.0) for c in found], np.float32)[which]


def _classes(y: Any) -> np.ndarray:
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(axis=1)
    if y.ndim not in (1, 2) or not (np.issubdtype(y.dtype, np.number) and (y == y.astype(np.int64)).all()):
        raise UsageError(
            "Class weights need `y` as whole numbers of shape (n,) or as one-hot rows. "
            f"Received: shape {y.shape}, {y.dtype}."
        )
    return y.reshape(-1).astype(np.int64)
