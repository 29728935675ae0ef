"""``horovod.tensorflow``'s functions with its own order of arguments; each is hvdkit's, and tensors come back.

``device_dense`` and ``device_sparse`` are left to TensorFlow here, and names are never put into a scope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvdkit.comm import compression as compressions
from hvdkit.comm import exchange, ops, variables, world
from hvdkit.comm.compression import Compression
from hvdkit.comm.protocol import ReduceOp
from hvdkit.compat.for_keras import tensor as _tensor
from hvdkit.errors import UsageError
from hvdkit.optim import distributed

__all__ = [
    "DistributedOptimizer",
    "allgather",
    "allgather_object",
    "allreduce",
    "alltoall",
    "broadcast",
    "broadcast_",
    "broadcast_object",
    "broadcast_object_fn",
    "broadcast_variables",
    "grouped_allgather",
    "grouped_allreduce",
    "grouped_reducescatter",
    "local_rank_op",
    "local_size_op",
    "rank_op",
    "reducescatter",
    "size_op",
]


def allreduce(  # noqa: PLR0917  Horovod's arguments in Horovod's order, here and below
    tensor: Any,
    average: bool | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    op: Any = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    name: str | None = None,
    process_set: Any = None,
    ignore_name_scope: bool = False,
) -> Any:
    """``hvd.allreduce``."""
    return ops.allreduce(
        _tensor(tensor), name, average, prescale_factor, postscale_factor, op, compression, process_set
    )


def grouped_allreduce(  # noqa: PLR0917
    tensors: list,
    average: bool | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    op: Any = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: Any = None,
    ignore_name_scope: bool = False,
    name: str | None = None,
) -> list:
    """``hvd.grouped_allreduce``; slices are made dense."""
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    names = name and [f"{name}.{i}" for i in range(len(tensors))]
    return ops.grouped_allreduce(
        tensors, names, average, prescale_factor, postscale_factor, op, compression, process_set
    )


def allgather(tensor: Any, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None) -> Any:
    """``hvd.allgather``."""
    return ops.allgather(_tensor(tensor), name, process_set)


def grouped_allgather(
    tensors: list, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None
) -> list:
    """``hvd.allgather`` of each."""
    return [allgather(t, name and f"{name}.{i}", process_set=process_set) for i, t in enumerate(tensors)]


def broadcast(
    tensor: Any, root_rank: int, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None
) -> Any:
    """``hvd.broadcast``."""
    return ops.broadcast(_tensor(tensor), root_rank, name, process_set)


def alltoall(
    tensor: Any, splits: Any = None, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None
) -> Any:
    """``hvd.alltoall``."""
    return ops.alltoall(_tensor(tensor), splits, name, process_set)


def reducescatter(  # noqa: PLR0917
    tensor: Any,
    device_dense: str = "",
    compression: Any = Compression.none,
    op: Any = ReduceOp.AVERAGE,
    name: str | None = None,
    process_set: Any = None,
    ignore_name_scope: bool = False,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Any:
    """``hvd.reducescatter``, scaled before and after, in the precision of ``compression``."""
    wire = compressions.of(compression)
    sent, context = wire.compress(tf.convert_to_tensor(tensor))
    scales = {"prescale_factor": prescale_factor, "postscale_factor": postscale_factor}
    return wire.decompress(ops.reducescatter(sent, name, op, process_set, **scales), context)


def grouped_reducescatter(  # noqa: PLR0917
    tensors: list,
    device_dense: str = "",
    compression: Any = Compression.none,
    op: Any = ReduceOp.AVERAGE,
    process_set: Any = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> list:
    """``reducescatter`` of each."""
    scales = {"prescale_factor": prescale_factor, "postscale_factor": postscale_factor}
    return [reducescatter(t, "", compression, op, None, process_set, **scales) for t in tensors]


def broadcast_variables(variables_: list, root_rank: int, process_set: Any = None, inplace: bool = False) -> None:
    """``hvd.broadcast_variables``."""
    variables.broadcast_variables(list(variables_), root_rank, process_set=process_set)


def broadcast_(variables_: list, root_rank: int, name: str | None = None, process_set: Any = None) -> list:
    """``hvd.broadcast_variables`` that returns the variables."""
    broadcast_variables(variables_, root_rank, process_set)
    return list(variables_)


def broadcast_object(
    obj: Any, root_rank: int = 0, session: Any = None, name: str | None = None, process_set: Any = None
) -> Any:
    """``hvd.broadcast_object``: not pickled."""
    _no_session(session)
    return exchange.broadcast_object(obj, root_rank, name, process_set)


def broadcast_object_fn(
    root_rank: int = 0, session: Any = None, name: str | None = None, process_set: Any = None
) -> Callable[[Any], Any]:
    """A function of one object: ``broadcast_object``."""
    return lambda obj: broadcast_object(obj, root_rank, session, name, process_set)


def allgather_object(obj: Any, session: Any = None, name: str | None = None, process_set: Any = None) -> list:
    """``hvd.allgather_object``: not pickled."""
    _no_session(session)
    return exchange.allgather_object(obj, name, process_set)


def _no_session(session: Any) -> None:
    if session is not None:
        raise UsageError("There are no sessions in TensorFlow 2.", fix="leave out session=.")


def size_op(process_set_id: int = 0, name: str | None = None) -> tf.Tensor:
    """``hvd.size()`` as a tensor."""
    return tf.constant(_whole_world(world.size(), process_set_id), name=name)


def rank_op(name: str | None = None) -> tf.Tensor:
    """``hvd.rank()`` as a tensor."""
    return tf.constant(world.rank(), name=name)


def local_size_op(name: str | None = None) -> tf.Tensor:
    """``hvd.local_size()`` as a tensor."""
    return tf.constant(world.local_size(), name=name)


def local_rank_op(name: str | None = None) -> tf.Tensor:
    """``hvd.local_rank()`` as a tensor."""
    return tf.constant(world.local_rank(), name=name)


def _whole_world(value: int, process_set_id: int) -> int:
    if process_set_id:
        raise UsageError("size_op knows all ranks only.", fix="process_set.size().")
    return value


def DistributedOptimizer(  # noqa: PLR0917
    optimizer: Any,
    name: str | None = None,
    use_locking: bool = False,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    backward_passes_per_step: int = 1,
    op: Any = ReduceOp.AVERAGE,
    gradient_predivide_factor: float = 1.0,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: Any = None,
    process_set: Any = distributed.global_process_set,
    scale_local_gradients: bool = True,
) -> Any:
    """``hvd.DistributedOptimizer``."""
    return distributed.DistributedOptimizer(
        optimizer,
        name,
        device_dense,
        device_sparse,
        compression,
        sparse_as_dense,
        gradient_predivide_factor,
        op,
        backward_passes_per_step,
        average_aggregated_gradients,
        num_groups,
        groups,
        process_set,
        scale_local_gradients,
    )
