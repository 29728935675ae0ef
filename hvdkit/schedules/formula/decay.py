"""What the rate does after the warm-up: one function and one line each.

A curve gives the rate as a fraction of the full rate. It is computed with ``ops``, which is NumPy on the command line
and ``keras.ops`` in the graph, at ``epoch``, the number of epochs so far, with fractions, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hvdkit.utils.registry import Registry

DECAYS = Registry(
    "decay",
    {
        "constant": "hvdkit.schedules.formula.decay:constant",
        "step": "hvdkit.schedules.formula.decay:step",
        "cosine": "hvdkit.schedules.formula.decay:cosine",
        "polynomial": "hvdkit.schedules.formula.decay:polynomial",
    },
)


def constant(epoch: Any, ops: Any, *, begin: float, end: float | None) -> Any:
    """The full rate until the end."""
    return ops.ones_like(epoch)


def step(
    epoch: Any,
    ops: Any,
    *,
    begin: float,
    end: float | None,
    boundaries: Sequence[float] = (30, 60, 80),
    factor: float = 0.1,
) -> Any:
    """Multiply by ``factor`` at each of these epochs, counted from the start of the training (Goyal et al.)."""
    fraction = ops.ones_like(epoch)
    for boundary in boundaries:
        fraction = ops.where(epoch >= boundary, fraction * factor, fraction)
    return fraction


def cosine(epoch: Any, ops: Any, *, begin: float, end: float, floor: float = 0.0) -> Any:
    """Half a cosine, from the full rate at ``begin`` to ``floor`` times it at ``end`` (SGDR, arXiv:1608.03983)."""
    return floor + (1 - floor) * 0.5 * (1 + ops.cos(math.pi * _progress(epoch, ops, begin, end)))


def polynomial(epoch: Any, ops: Any, *, begin: float, end: float, power: float = 2.0, floor: float = 0.0) -> Any:
    """``(1 - progress) ** power``, to ``floor`` times the full rate at ``end`` (power 2: You et al., 1708.03888)."""
    return floor + (1 - floor) * (1 - _progress(epoch, ops, begin, end)) ** power


def _progress(epoch: Any, ops: Any, begin: float, end: float) -> Any:
    return ops.clip((epoch - begin) / (end - begin), 0.0, 1.0)
