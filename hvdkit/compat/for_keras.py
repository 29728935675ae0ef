"""The functions of ``horovod.keras`` and ``horovod.tensorflow.keras`` that differ from hvdkit's: tensors come back."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hvdkit.comm import ops
from hvdkit.comm.engine import ReduceOp
from hvdkit.comm.variables import broadcast_global_variables as _broadcast_global_variables
from hvdkit.compat.horovod_errors import EagerError, as_horovod_raises

__all__ = ["allgather", "allreduce", "broadcast", "broadcast_global_variables", "reducescatter"]


@as_horovod_raises
def allreduce(  # noqa: PLR0917  Horovod's arguments in Horovod's order
    value: Any,
    name: str | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: Any = None,
    compression: Any = None,
) -> tf.Tensor:
    """``hvd.allreduce`` that returns a tensor."""
    average = None if op is not None else average
    return ops.allreduce(tensor(value), name, average, prescale_factor, postscale_factor, op, compression)


@as_horovod_raises
def allgather(value: Any, name: str | None = None) -> tf.Tensor:
    """``hvd.allgather`` that returns a tensor."""
    return ops.allgather(tensor(value), name)


@as_horovod_raises
def broadcast(value: Any, root_rank: int, name: str | None = None) -> tf.Tensor:
    """``hvd.broadcast`` that returns a tensor."""
    return ops.broadcast(tensor(value), root_rank, name)


@as_horovod_raises
def reducescatter(value: Any, name: str | None = None, op: Any = ReduceOp.AVERAGE) -> tf.Tensor:
    """``hvd.reducescatter`` that returns a tensor."""
    return ops.reducescatter(tensor(value), name, op)


def broadcast_global_variables(root_rank: int, variables: Any = None) -> None:
    """``hvd.broadcast_global_variables``, which needs to know which.

    Raises:
        RuntimeError: nothing says which.
    """
    if variables is None:
        raise EagerError(
            "broadcast_global_variables needs the model: TensorFlow 2 has no list of all variables.",
            fix="hvd.broadcast_variables(model.variables, root_rank=0), or BroadcastGlobalVariablesCallback(0) in fit.",
        )
    _broadcast_global_variables(root_rank, variables)


def tensor(value: Any) -> Any:
    """What goes in as a tensor comes out as one; slices stay slices."""
    return value if isinstance(value, tf.IndexedSlices) else tf.convert_to_tensor(value)
