"""Who gets which samples in which step: pure arithmetic, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EpochPlan:
    """One epoch's steps.

    Attributes:
        counts: samples of each rank in each step, of shape (steps, ranks).
        begins: where each rank's samples begin in the epoch's order (the global one, or the rank's own), of that shape.
    """

    counts: np.ndarray
    begins: np.ndarray

    @property
    def steps(self) -> int:
        """Steps of the epoch, the same for every rank."""
        return len(self.counts)

    @property
    def has_empty(self) -> bool:
        """Whether some rank has no sample in some step."""
        return bool((self.counts == 0).any())

    def weights(self) -> np.ndarray:
        """What each rank's mean weighs in the mean over all: samples x ranks / samples of all ranks; (steps, ranks).

        >>> global_plan(5, [2, 2], drop=False).weights()
        array([[1., 1.],
               [2., 0.]])
        """
        return self.counts * self.counts.shape[1] / self.counts.sum(axis=1, keepdims=True)


def global_plan(samples: int, sizes: list[int], *, drop: bool, offset: int = 0) -> EpochPlan:
    """Samples that all ranks have, shared out: step s is the s-th global batch, cut up between the ranks.

    Args:
        samples: of an epoch.
        sizes: the batch size of each rank; their sum is the global batch.
        drop: leave out a last global batch that is not full, instead of sharing out what it has.
        offset: so many samples of the epoch have been trained on already.

    Example:

    >>> plan = global_plan(7, [2, 2], drop=False)
    >>> plan.counts.tolist(), plan.begins.tolist()
    ([[2, 2], [2, 1]], [[0, 2], [4, 6]])
    """
    whole = sum(sizes)
    left = samples - offset
    steps = left // whole if drop else -(-left // whole)
    totals = np.minimum(whole, left - np.arange(steps, dtype=np.int64) * whole)
    plan = _cut(totals, sizes, offset)
    if offset and steps > 1 and plan.has_empty and not global_plan(samples, sizes, drop=drop).has_empty:
        # The rest of an epoch that other ranks began: that no rank is ever without samples was settled before.
        plan = _cut(np.append(totals[:-2], totals[-2:].sum()), sizes, offset)
    return plan


def _cut(totals: np.ndarray, sizes: list[int], offset: int) -> EpochPlan:
    """So many samples of all ranks in each step, cut up between ranks with these batch sizes."""
    edges = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
    # In whole numbers, rounded up, so that of two samples for three ranks the first ranks get one each.
    bounds = -(-edges[None, :] * totals[:, None] // edges[-1])
    begins = bounds[:, :-1] + np.arange(len(totals), dtype=np.int64)[:, None] * edges[-1]
    return EpochPlan(np.diff(bounds, axis=1), offset + begins)


def per_rank_plan(samples: list[int], sizes: list[int], *, drop: bool, offset: int = 0) -> EpochPlan:
    """Samples that each rank has for itself: every rank makes as many steps as the one that needs most.

    ``offset`` is the number of steps of the epoch that have been made already.

    >>> per_rank_plan([5, 2, 0], [2, 2, 2], drop=False).counts.tolist()
    [[2, 2, 0], [2, 0, 0], [1, 0, 0]]
    >>> per_rank_plan([5, 3], [2, 2], drop=True).counts.tolist()
    [[2, 2]]
    """
    n, b = np.asarray(samples, np.int64), np.asarray(sizes, np.int64)
    steps = int((n // b).min() if drop else (-(-n // b)).max())
    begins = np.arange(steps, dtype=np.int64)[:, None] * b[None, :]
    counts = np.clip(n[None, :] - begins, 0, b[None, :])
    return EpochPlan(counts[offset:], np.minimum(begins, n[None, :])[offset:])


def permutation(samples: int, *seeds: int) -> np.ndarray:
    """A permutation from whole numbers: the same on every machine, with every version of NumPy.

    ``RandomState`` is the one generator whose numbers NumPy promises never to change (NEP 19).

    >>> permutation(5, 7, 0).tolist()
    [4, 1, 2, 3, 0]
    """
    return np.random.RandomState([*seeds]).permutation(samples).astype(np.int64)


def balanced(weights: list[int], ranks: int) -> list[list[int]]:
    """Share out whole things by their size: the largest first, each to the rank that has least so far.

    >>> balanced([5, 9, 4, 2], 2)
    [[1, 3], [0, 2]]
    """
    load, given = [0] * ranks, [[] for _ in range(ranks)]
    for i in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        rank = load.index(min(load))
        load[rank] += weights[i]
        given[rank].append(i)
    return [sorted(g) for g in given]


def proportional(total: int, speeds: list[float]) -> list[int]:
    """A whole number for each speed, at least 1, in proportion, that add up to ``total``.

    >>> proportional(64, [1.0, 1.0, 2.0])
    [16, 16, 32]
    """
    exact = np.asarray(speeds, float) * total / sum(speeds)
    sizes = np.maximum(1, np.floor(exact)).astype(int)
    while sizes.sum() != total:
        up = sizes.sum() < total
        gap = (exact - sizes) if up else np.where(sizes > 1, sizes - exact, -np.inf)
        sizes[int(np.argmax(gap))] += 1 if up else -1
    return sizes.tolist()
