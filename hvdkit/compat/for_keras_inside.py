"""``horovod._keras`` and its ``callbacks``: what Horovod's Keras modules share; Keras is the first argument."""

from __future__ import annotations

from typing import Any

from hvdkit import callbacks
from hvdkit.compat import for_keras
from hvdkit.optim import distributed
from hvdkit.optim.load import load_model as _load_model

__all__ = [
    "BroadcastGlobalVariablesCallbackImpl",
    "LearningRateScheduleCallbackImpl",
    "LearningRateWarmupCallbackImpl",
    "MetricAverageCallbackImpl",
    "allgather",
    "allreduce",
    "broadcast",
    "create_distributed_optimizer",
    "load_model",
    "reducescatter",
]


def create_distributed_optimizer(  # noqa: PLR0917  Horovod's arguments in Horovod's order, here and below
    keras: Any,
    optimizer: Any,
    name: str | None,
    device_dense: str,
    device_sparse: str,
    compression: Any,
    sparse_as_dense: bool,
    gradient_predivide_factor: float,
    op: Any,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    groups: Any = None,
    process_set: Any = None,
    scale_local_gradients: bool = True,
) -> Any:
    """``hvd.DistributedOptimizer``."""
    return distributed.DistributedOptimizer(
        optimizer, name, device_dense, device_sparse, compression, sparse_as_dense, gradient_predivide_factor, op,
        backward_passes_per_step, average_aggregated_gradients, 0, groups, process_set, scale_local_gradients,
    )  # fmt: skip


def allreduce(  # noqa: PLR0917
    backend: Any,
    value: Any,
    name: str | None,
    average: bool | None,
    prescale_factor: float,
    postscale_factor: float,
    op: Any,
    compression: Any,
) -> Any:
    """``hvd.allreduce``."""
    return for_keras.allreduce(value, name, average, prescale_factor, postscale_factor, op, compression)


def allgather(backend: Any, value: Any, name: str | None) -> Any:
    """``hvd.allgather``."""
    return for_keras.allgather(value, name)


def broadcast(backend: Any, value: Any, root_rank: int, name: str | None) -> Any:
    """``hvd.broadcast``."""
    return for_keras.broadcast(value, root_rank, name)


def reducescatter(backend: Any, value: Any, name: str | None, op: Any) -> Any:
    """``hvd.reducescatter``."""
    return for_keras.reducescatter(value, name, op)


def load_model(  # noqa: PLR0917
    keras: Any,
    wrap_optimizer: Any,
    filepath: Any,
    custom_optimizers: Any,
    custom_objects: Any,
    legacy_opts: bool = False,
) -> Any:
    """``hvd.load_model``, which needs no ``wrap_optimizer``."""
    return _load_model(filepath, custom_optimizers=custom_optimizers, custom_objects=custom_objects)


def _impl(name: str) -> type:
    """A callback whose first argument is Keras' backend, for classes that derive from it and from Keras' own."""
    base = getattr(callbacks, name)

    def __init__(self: Any, backend: Any, *args: Any, **kwargs: Any) -> None:
        super(made, self).__init__(*args, **kwargs)
        self.backend = backend

    made = type(f"{name}Impl", (base,), {"__init__": __init__, "__doc__": f"``hvd.callbacks.{name}``."})
    return made


BroadcastGlobalVariablesCallbackImpl = _impl("BroadcastGlobalVariablesCallback")
MetricAverageCallbackImpl = _impl("MetricAverageCallback")
LearningRateScheduleCallbackImpl = _impl("LearningRateScheduleCallback")
LearningRateWarmupCallbackImpl = _impl("LearningRateWarmupCallback")
