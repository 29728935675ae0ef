"""``tf.IndexedSlices`` over the ranks: they are gathered, not added up."""

from __future__ import annotations

from typing import Any

from hvdkit.comm.bitcast import scaled
from hvdkit.comm.engine import Engine, ReduceOp
from hvdkit.errors import UsageError


def allreduce_slices(slices: Any, name: str | None, op: ReduceOp, scales: tuple, engine: Engine) -> Any:
    """Every rank's slices, one after the other, which are the reduction when those of one row are added up.

    Args:
        slices: this rank's ``tf.IndexedSlices``.
        name: what ranks recognise the collectives by inside a graph.
        op: ``ReduceOp.AVERAGE`` or ``ReduceOp.SUM``.
        scales: multiply the values before and after.
        engine: what moves them.

    Raises:
        UsageError: another op.
    """
    import tensorflow as tf

    if op not in (ReduceOp.AVERAGE, ReduceOp.SUM):
        raise UsageError(
            f"tf.IndexedSlices are joined by Average or Sum. Received: op={op.name.title()}.",
            fix="tf.convert_to_tensor(slices) makes them dense.",
        )
    before, after = scales
    values, indices = scaled(tf.convert_to_tensor(slices.values), before), tf.convert_to_tensor(slices.indices)
    if op is ReduceOp.AVERAGE:
        if values.dtype.is_integer:  # what is cut off each rank's part would be missing in their sum
            values = tf.cast(values, tf.float64)
        values /= engine.size
    values = engine.allgather(values, name and f"{name}.values")
    return tf.IndexedSlices(
        scaled(values, after), engine.allgather(indices, name and f"{name}.indices"), slices.dense_shape
    )
