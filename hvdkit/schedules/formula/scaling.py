"""Scaling rules: how the learning rate of a small batch becomes that of a large one. One function and one line each."""

from __future__ import annotations

from hvdkit.errors import UsageError
from hvdkit.utils.numbers import real
from hvdkit.utils.registry import Registry

SCALING = Registry(
    "scaling rule",
    {
        "none": "hvdkit.schedules.formula.scaling:none",
        "linear": "hvdkit.schedules.formula.scaling:linear",
        "sqrt": "hvdkit.schedules.formula.scaling:sqrt",
    },
)


def none(times: float) -> float:
    """The rate stays as it is."""
    return 1.0


def linear(times: float) -> float:
    """A batch k times as large, k times the rate (Goyal et al., arXiv:1706.02677, section 2.1): SGD with momentum."""
    return times


def sqrt(times: float) -> float:
    """A batch k times as large, sqrt(k) times the rate (You et al., arXiv:1904.00962): LAMB, Adam and their kin."""
    return times**0.5


def scale(base_batch_size: float, global_batch_size: float, rule: str = "linear") -> float:
    """The factor for a learning rate that was tuned for a batch of ``base_batch_size`` samples.

    Args:
        base_batch_size: samples per update for which the rate was tuned.
        global_batch_size: samples per update now: one rank's batch x ranks x accumulated steps.
        rule: ``"none"``, ``"linear"``, ``"sqrt"``, or another name in ``SCALING``.

    Raises:
        UsageError: the rule is unknown, or a batch size is not above 0.

    Example:

    >>> scale(256, 8192), scale(256, 8192, "sqrt"), scale(256, 8192, "none")
    (32.0, 5.656854249492381, 1.0)
    """
    base, now = real(base_batch_size, "base_batch_size"), real(global_batch_size, "global_batch_size")
    for name, size in (("base_batch_size", base), ("global_batch_size", now)):
        if not size > 0:
            raise UsageError(f"`{name}` must be above 0. Received: {name}={size!r}.")
    return float(SCALING.resolve(rule)(now / base))
