"""How a mean over the ranks is divided: before the sum where that matters, and after it where that is exact."""

from __future__ import annotations

import math

from hvdkit.comm.engine import ReduceOp


def sum_of_divided(op: ReduceOp, dtype: str, size: int) -> tuple[ReduceOp, int]:
    """The operation for a transport that divides a mean after its sum, and by what is divided before.

    The sum of float16 numbers may leave float16's range (65,504) where their mean does not: they are divided before.

    >>> sum_of_divided(ReduceOp.AVERAGE, "float16", 4)
    (<ReduceOp.SUM: 'sum'>, 4)
    >>> sum_of_divided(ReduceOp.AVERAGE, "float32", 4)
    (<ReduceOp.AVERAGE: 'average'>, 1)
    """
    return (ReduceOp.SUM, size) if op is ReduceOp.AVERAGE and dtype == "float16" else (op, 1)


def factors(op: ReduceOp, size: int, prescale: float, postscale: float) -> tuple[float, int, float]:
    """By what floating-point numbers are multiplied before they are joined, and divided and multiplied afterwards.

    By a power of two it is exact before, too, and costs nothing beside a copy; but for a product.

    >>> factors(ReduceOp.AVERAGE, 4, 1.0, 1.0), factors(ReduceOp.AVERAGE, 3, 1.0, 0.5)
    ((0.25, 1, 1.0), (0.5, 3, 1.0))
    """
    divisor = size if op is ReduceOp.AVERAGE else 1
    if _is_power_of_two(divisor):
        prescale, divisor = prescale / divisor, 1
    if _is_power_of_two(postscale) and op is not ReduceOp.PRODUCT:
        prescale, postscale = prescale * postscale, 1.0
    return prescale, divisor, postscale


def _is_power_of_two(number: float) -> bool:
    return math.frexp(number)[0] == 0.5
