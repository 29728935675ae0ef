"""Gradients travel in half precision."""

from __future__ import annotations

import functools

from hvdkit.comm.engine import Engine, ReduceOp
from hvdkit.comm.mean import sum_of_divided
from hvdkit.utils.log import get_logger


@functools.cache
def _say(why: str) -> None:
    get_logger().info('compression "fp16" saves no time here: %s.', why)


class FP16Compression:
    """``compression="fp16"``: floating-point gradients are sent as float16, half the bytes of float32.

    An average is divided by the number of ranks *before* the cast, so that the sum of n ranks cannot leave float16's
    range (65,504) where each rank's gradient is inside it. A gradient beyond the range becomes inf, which a
    ``LossScaleOptimizer`` answers by skipping the step and halving the scale, on every rank alike; without one it is as
    loud as any exploded gradient. Values below 6e-8 become 0.
    """

    flat = True

    def reduce(self, gradients: list, names: list[str], op: ReduceOp, engine: Engine) -> list:
        import tensorflow as tf

        if why := engine.fp16_slow_reason():
            _say(why)
        wire_op, divisor = sum_of_divided(op, "float16", engine.size)
        sent = [g if divisor == 1 else g / tf.cast(divisor, g.dtype) for g in gradients]
        sent = [tf.cast(g, tf.float16) if g.dtype.is_floating else g for g in sent]
        received = engine.allreduce(sent, wire_op, names)
        return [tf.cast(r, g.dtype) for r, g in zip(received, gradients, strict=True)]
