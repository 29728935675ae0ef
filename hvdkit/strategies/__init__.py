"""Strategies: how the devices of a run share the work. One file each, and one line in ``hvdkit.app.choices``.

A strategy is a function that returns a ``tf.distribute`` strategy, in whose scope you create and compile the model::

    hvd.init(pin_gpus=False)
    with hvd.strategies.mirrored_per_host().scope():
        model = keras.Sequential([...])
        model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3)), ...)
    model.fit(x, y, batch_size=...)

First the gradients of a process' replicas are summed, then one Horovod reduction per process takes the mean over the
processes. Clipping, accumulation and loss scaling apply to the result. ``batch_size`` is the number of samples that a
*process* takes per step, divided among its replicas. Make it a multiple of the number of replicas, because the means of
all replicas have the same weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvdkit.app.choices import STRATEGIES
from hvdkit.utils.deprecation import warn_deprecated
from hvdkit.utils.registry import import_object

# Of an optimizer, and not of devices: they are in hvd.optim now.
_OF_OPTIMIZERS = {
    "local_sgd": "hvdkit.optim.local_sgd.old_names:local_sgd",
    "end_round": "hvdkit.optim.local_sgd.old_names:end_round",
}

_RENAMED = {"horovod": "none", "hybrid": "mirrored_per_host"}

__all__ = ["STRATEGIES", "end_round", "local_sgd", "mirrored", "mirrored_per_host", "none"]


def wants_every_gpu(strategy: Callable) -> Callable:
    """Mark a strategy whose process shares out its GPUs itself; ``hvdkit train`` then pins none."""
    strategy.pin_gpus = False
    return strategy


def __getattr__(name: str) -> Any:
    if name in _OF_OPTIMIZERS:
        return import_object(_OF_OPTIMIZERS[name])
    if name in _RENAMED:
        warn_deprecated(f"hvd.strategies.{name}", f"hvd.strategies.{_RENAMED[name]}")
        return STRATEGIES.resolve(_RENAMED[name])
    if name not in STRATEGIES.names():
        raise AttributeError(f"module 'hvdkit.strategies' has no attribute {name!r}. Known: {', '.join(__all__)}.")
    return STRATEGIES.resolve(name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
