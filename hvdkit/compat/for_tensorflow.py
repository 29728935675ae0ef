"""``horovod.tensorflow``'s functions with its own order of arguments; each is hvdkit's, and tensors come back.

``device_dense`` and ``device_sparse`` are left to TensorFlow here, and names are never put into a scope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvdkit.comm import exchange, ops, world
from hvdkit.comm.compression import Compression, resolve_compression
from hvdkit.comm.engine import ReduceOp
from hvdkit.comm.process_sets import find_by_id, global_process_set
from hvdkit.comm.variables import broadcast_variables as _broadcast_variables
from hvdkit.compat.for_keras import broadcast_global_variables
from hvdkit.compat.for_keras import tensor as _tensor
from hvdkit.compat.for_util import handle_average_backwards_compatibility
from hvdkit.compat.horovod_errors import NotForSlicesError, as_horovod_raises
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
    "broadcast_global_variables",
    "broadcast_object",
    "broadcast_object_fn",
    "broadcast_variables",
    "grouped_allgather",
    "grouped_allreduce",
    "grouped_reducescatter",
    "local_rank_op",
    "local_size_op",
    "process_set_included_op",
    "rank_op",
    "reducescatter",
    "size_op",
]


@as_horovod_raises
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
    if isinstance(tensor, tf.IndexedSlices):
        op = _op_of_slices(op, average, prescale_factor, postscale_factor)
        return ops.allreduce(tensor, name, op=op, process_set=process_set)
    return ops.allreduce(
        _tensor(tensor), name, average, prescale_factor, postscale_factor, op, compression, process_set
    )


@as_horovod_raises
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
    """``hvd.grouped_allreduce``: of slices every rank's, one after the other, as ``allreduce`` gives them."""
    results = list(tensors)
    names = [name and f"{name}.{i}" for i in range(len(results))]
    dense = [i for i, tensor in enumerate(results) if not isinstance(tensor, tf.IndexedSlices)]
    sparse = [i for i in range(len(results)) if i not in dense]
    if sparse:
        joined_by = _op_of_slices(op, average, prescale_factor, postscale_factor)
        for i in sparse:
            results[i] = ops.allreduce(results[i], names[i], op=joined_by, process_set=process_set)
    reduced = ops.grouped_allreduce(
        [tf.convert_to_tensor(results[i]) for i in dense],
        name and [names[i] for i in dense],
        average, prescale_factor, postscale_factor, op, compression, process_set,
    )  # fmt: skip
    for i, tensor in zip(dense, reduced, strict=True):
        results[i] = tensor
    return results


def _op_of_slices(op: Any, average: bool | None, *scales: float) -> ReduceOp:
    op = ReduceOp.get(handle_average_backwards_compatibility(op, average))
    if op not in (ReduceOp.AVERAGE, ReduceOp.SUM):
        raise NotForSlicesError(
            f"tf.IndexedSlices are joined by Average or Sum. Received: op={op.name.title()}.",
            fix="tf.convert_to_tensor(slices) makes them dense; DistributedOptimizer has sparse_as_dense=True.",
        )
    if any(scale != 1.0 for scale in scales):
        raise NotForSlicesError(
            "tf.IndexedSlices are not scaled: they have no prescale_factor and postscale_factor.",
            fix="multiply slices.values, or make them dense: tf.convert_to_tensor(slices).",
        )
    return op


@as_horovod_raises
def allgather(tensor: Any, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None) -> Any:
    """``hvd.allgather``."""
    return ops.allgather(_tensor(tensor), name, process_set)


@as_horovod_raises
def grouped_allgather(
    tensors: list, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None
) -> list:
    """``hvd.allgather`` of each."""
    return [allgather(t, name and f"{name}.{i}", process_set=process_set) for i, t in enumerate(tensors)]


@as_horovod_raises
def broadcast(
    tensor: Any, root_rank: int, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None
) -> Any:
    """``hvd.broadcast``."""
    return ops.broadcast(_tensor(tensor), root_rank, name, process_set)


@as_horovod_raises
def alltoall(
    tensor: Any, splits: Any = None, name: str | None = None, ignore_name_scope: bool = False, process_set: Any = None
) -> Any:
    """``hvd.alltoall``."""
    return ops.alltoall(_tensor(tensor), splits, name, process_set)


@as_horovod_raises
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
    wire = resolve_compression(compression)
    sent, context = wire.compress(tf.convert_to_tensor(tensor))
    scales = {"prescale_factor": prescale_factor, "postscale_factor": postscale_factor}
    return wire.decompress(ops.reducescatter(sent, name, op, process_set, **scales), context)


@as_horovod_raises
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


@as_horovod_raises
def broadcast_variables(variables: list, root_rank: int, process_set: Any = None, inplace: bool = False) -> None:
    """``hvd.broadcast_variables``."""
    _broadcast_variables(list(variables), root_rank, process_set=process_set)


@as_horovod_raises
def broadcast_(variables: list, root_rank: int, name: str | None = None, process_set: Any = None) -> list:
    """``hvd.broadcast_variables`` that returns the variables."""
    broadcast_variables(variables, root_rank, process_set)
    return list(variables)


@as_horovod_raises
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


@as_horovod_raises
def allgather_object(obj: Any, session: Any = None, name: str | None = None, process_set: Any = None) -> list:
    """``hvd.allgather_object``: not pickled."""
    _no_session(session)
    return exchange.allgather_object(obj, name, process_set)


def _no_session(session: Any) -> None:
    if session is not None:
        raise UsageError("There are no sessions in TensorFlow 2.", fix="leave out session=.")


def size_op(process_set_id: int = 0, name: str | None = None) -> tf.Tensor:
    """``process_set.size()`` of the set with this number, ``hvd.size()`` by default, as a tensor."""
    return tf.constant(find_by_id(process_set_id).size(), name=name)


def process_set_included_op(process_set_id: int = 0, name: str | None = None) -> tf.Tensor:
    """Whether this process is in the set with this number, 1 or 0, as a tensor."""
    return tf.constant(int(find_by_id(process_set_id).included()), name=name)


def rank_op(name: str | None = None) -> tf.Tensor:
    """``hvd.rank()`` as a tensor."""
    return tf.constant(world.rank(), name=name)


def local_size_op(name: str | None = None) -> tf.Tensor:
    """``hvd.local_size()`` as a tensor."""
    return tf.constant(world.local_size(), name=name)


def local_rank_op(name: str | None = None) -> tf.Tensor:
    """``hvd.local_rank()`` as a tensor."""
    return tf.constant(world.local_rank(), name=name)


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
    process_set: Any = global_process_set,
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
