"""Distributed optimizers, LARS, and which weights decay; loaded on first use."""

from __future__ import annotations

from hvdkit.utils.registry import lazy

_HOME = {
    "LARS": "hvdkit.optim.lars:LARS",
    "LocalSGD": "hvdkit.optim.local_sgd.optimizer:LocalSGD",
    "exclude_bias_and_norm": "hvdkit.optim.exclusion:exclude_bias_and_norm",
    "is_bias_or_norm": "hvdkit.optim.exclusion:is_bias_or_norm",
    "synchronize": "hvdkit.optim.reduction_state:synchronize",
}

__all__ = list(_HOME)

__getattr__, __dir__ = lazy(globals(), _HOME)
