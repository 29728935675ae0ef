"""Adasum (Maleki et al., "Scaling Distributed Training with Adaptive Summation", 2021).

Two gradients that point the same way are averaged, orthogonal ones are added:
``a (1 - a.b / 2|a|^2) + b (1 - a.b / 2|b|^2)``; of more ranks, pairs of pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def adasum(x: np.ndarray, rank: int, size: int, swap: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Join ``x`` of ``size`` ranks, a power of two, in place; ``swap(sent, other)`` returns another rank's array.

    Example:

    >>> a, b = np.float32([1, 0]), np.float32([0, 1])
    >>> adasum(a, 0, 2, lambda sent, other: b)
    >>> a
    array([1., 1.], dtype=float32)
    """
    distance = 1
    while distance < size:
        other = rank ^ distance
        received = swap(x, other)
        first, second = (x, received) if rank < other else (received, x)  # one order, so that both get the same bits
        dot, one, two = (float(np.vdot(a.astype(np.float64), b)) for a, b in _pairs(first, second))
        keep_first = 1 - dot / (2 * one) if one else 1.0
        keep_second = 1 - dot / (2 * two) if two else 1.0
        x[...] = keep_first * first + keep_second * second
        distance *= 2


def _pairs(a: np.ndarray, b: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(a, b), (a, a), (b, b)]
