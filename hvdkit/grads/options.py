"""Horovod's arguments of ``DistributedOptimizer`` and ``DistributedGradientTape``, checked once for both."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from hvdkit.comm.engine import ReduceOp
from hvdkit.comm.process_sets import ProcessSet, global_process_set
from hvdkit.errors import UsageError
from hvdkit.grads import reducers
from hvdkit.grads.groups import check_groups
from hvdkit.utils.numbers import real, whole

GRADIENT_OPS = (ReduceOp.AVERAGE, ReduceOp.SUM, ReduceOp.ADASUM)


@dataclass(frozen=True)
class ReduceOptions:
    """How gradients are reduced.

    Attributes:
        reducer: how dense gradients travel.
        op: ``ReduceOp.AVERAGE``, ``SUM`` or ``ADASUM``.
        sparse_as_dense: make ``tf.IndexedSlices`` dense before they are reduced, instead of gathering the ranks'
            slices. Gathered is exact for optimizers that update only the rows of a slice (Adam, RMSprop, ...).
        predivide: divide by this before the sum and multiply with it after, to stay inside a small dtype's range.
        groups: which gradients are moved together; None moves each by itself.
        process_set: the ranks that share these gradients; None means all.
        scale_local: divide the gradients of local variables by the number of ranks.
        device_dense, device_sparse: where dense and sparse gradients are reduced; "" leaves it to TensorFlow.
        bucket_bytes: the size of the flat buffers that small gradients are moved in; None is the engine's own choice,
            0 moves each by itself.
    """

    reducer: reducers.Reducer
    op: ReduceOp = ReduceOp.AVERAGE
    sparse_as_dense: bool = False
    predivide: float = 1.0
    groups: int | list | None = None
    process_set: ProcessSet | None = None
    scale_local: bool = True
    device_dense: str = ""
    device_sparse: str = ""
    bucket_bytes: int | None = None


def check_reduce_options(
    *,
    compression: Any = "none",
    op: ReduceOp | str = ReduceOp.AVERAGE,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    process_set: ProcessSet | None = None,
    scale_local_gradients: bool = True,
    device_dense: str = "",
    device_sparse: str = "",
    bucket_bytes: int | None = None,
) -> ReduceOptions:
    """Arguments in Horovod's names, as ``ReduceOptions``.

    Raises:
        UsageError: an argument that cannot be used; it is named.
    """
    op = ReduceOp.get(op)
    if op not in GRADIENT_OPS:
        raise UsageError(f"Gradients are joined by Average, Sum or Adasum. Received: op={op.name.title()}.")
    gradient_predivide_factor = real(gradient_predivide_factor, "gradient_predivide_factor")
    if not gradient_predivide_factor > 0:
        raise UsageError(
            f"`gradient_predivide_factor` must be positive. Received: "
            f"gradient_predivide_factor={gradient_predivide_factor}."
        )
    if gradient_predivide_factor != 1.0 and op is not ReduceOp.AVERAGE:
        raise UsageError(
            f"`gradient_predivide_factor` splits an average, and op={op.name.title()} is none.", fix="op=hvd.Average."
        )
    bucket_bytes = None if bucket_bytes is None else whole(bucket_bytes, "bucket_bytes", 0)
    if num_groups:
        warnings.warn("`num_groups` is called `groups` now.", DeprecationWarning, stacklevel=4)
        groups = num_groups if groups is None else groups
    if process_set is not None and not isinstance(process_set, ProcessSet):
        raise UsageError(f"`process_set` must be a hvd.ProcessSet. Received: process_set={process_set!r}.")
    return ReduceOptions(
        reducer=reducers.resolve_reducer(compression),
        op=op,
        sparse_as_dense=bool(sparse_as_dense),
        predivide=float(gradient_predivide_factor),
        groups=check_groups(groups),
        process_set=None if process_set is global_process_set else process_set,
        scale_local=bool(scale_local_gradients),
        device_dense=device_dense,
        device_sparse=device_sparse,
        bucket_bytes=bucket_bytes,
    )
