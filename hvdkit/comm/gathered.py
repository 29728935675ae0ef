"""What comes back to a rank through a gathered value."""

from __future__ import annotations

from typing import Any

from hvdkit.comm.protocol import ReduceOp


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
    wide = tf.cast(upstream, tf.float32) if upstream.dtype == tf.bfloat16 else upstream  # which no engine reduces
    mean = engine.allreduce([wide], ReduceOp.AVERAGE, None)[0]
    return tf.cast(mean[begin : begin + rows[engine.rank]], upstream.dtype)
