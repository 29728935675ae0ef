"""The names that ``LocalSGD`` and ``synchronize`` had before."""

from __future__ import annotations

from typing import Any

from hvdkit.optim.local_sgd.optimizer import LocalSGD
from hvdkit.optim.reduction_state import synchronize
from hvdkit.utils.deprecation import warn_deprecated


def local_sgd(optimizer: Any, k: int = 8, *, start: int = 0, **arguments: Any) -> Any:
    """``hvd.optim.LocalSGD``, with ``k`` for ``sync_period`` and ``start`` for ``start_step``. Deprecated."""
    warn_deprecated("hvd.strategies.local_sgd", "hvd.optim.LocalSGD(optimizer, sync_period=..., start_step=...)")
    return LocalSGD(optimizer, k, start_step=start, **arguments)


def end_round(model: Any) -> None:
    """``hvd.optim.synchronize``. Deprecated."""
    warn_deprecated("hvd.strategies.end_round", "hvd.optim.synchronize")
    synchronize(model)
