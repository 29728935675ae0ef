"""Gradients of collectives, as Horovod defines them: what comes back to a rank through a value that was moved."""

from __future__ import annotations

from typing import Any

from hvdkit.comm.engine import ReduceOp


def gradient_of_own_rows(engine: Any, tensor: Any, upstream: Any) -> Any:
    """The mean of the gradients with respect to all ranks' rows, and of it this rank's rows; as in Horovod.

    Args:
        engine: what gathered the ranks' tensors.
        tensor: this rank's.
        upstream: the gradient with respect to all ranks' rows.
    """
    import tensorflow as tf

    rows = engine.allgather(tf.shape(tensor)[:1], None)
    begin = tf.reduce_sum(rows[: engine.rank])
    return _mean(engine, upstream)[begin : begin + rows[engine.rank]]


def gradient_at_root(engine: Any, is_root: bool, upstream: Any) -> Any:
    """The mean of the gradients with respect to all ranks' copies, for the root whose value they are; as in Horovod.

    The same operations on every rank, by whose names Horovod recognises collectives that have none. And none that
    TensorFlow could leave out where nothing comes of it: the other ranks would wait for it.
    """
    import tensorflow as tf

    mean = _mean(engine, upstream)
    not_folded = tf.raw_ops.PlaceholderWithDefault(input=tf.constant(is_root), shape=[])
    return tf.where(not_folded, mean, tf.zeros_like(mean))


def gradient_of_scattered(engine: Any, op: ReduceOp, upstream: Any) -> Any:
    """The gradient of a ``reducescatter``: all ranks' gradients, one after the other; of a sum, times the ranks; as in
    Horovod."""
    import tensorflow as tf

    upstream = tf.convert_to_tensor(upstream)  # slices, where rows of it were gathered
    return engine.allgather(upstream * tf.cast(engine.size, upstream.dtype) if op is ReduceOp.SUM else upstream, None)


def _mean(engine: Any, upstream: Any) -> Any:
    import tensorflow as tf

    wide = tf.cast(upstream, tf.float32) if upstream.dtype == tf.bfloat16 else upstream  # which no engine reduces
    return tf.cast(engine.allreduce([wide], ReduceOp.AVERAGE, None)[0], upstream.dtype)
