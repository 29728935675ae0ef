"""Loss scaling over several ranks: every rank skips a step, or none does.

``LossScaleOptimizer`` asks its own gradients whether they are finite, and runs the inner optimizer only then, in a
``cond``. With a NaN on one rank, that rank would skip, and the others would wait in a reduction it never makes. So the
gradients are reduced before it asks; where the inner optimizer accumulates, whose reduction comes later, the ranks
exchange the one answer.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hvdkit.comm.protocol import ReduceOp
from hvdkit.grads import batch_weight, replicas
from hvdkit.optim.convert import Distribution, Registering, convert


class _ReducingLossScale(Registering):
    """Asks for finite gradients after the reduction, or together."""

    def apply(self, grads, trainable_variables=None):
        grads = replicas.total(batch_weight.weigh_gradients(grads))  # a NaN on one replica is then on all
        if self._hvdkit.reduces:
            variables = trainable_variables or self._trainable_variables
            # Not built yet, it is about to be built with just these variables, in this order.
            numbers = [self._get_variable_index(v) for v in variables] if self.built else None
            grads = self._hvdkit.reduce(grads, variables, numbers)
        super().apply(grads, trainable_variables)

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        engine = self._hvdkit.pipeline.engine
        # What was reduced is the same everywhere; what is local, or not reduced yet, is not.
        if engine.size == 1 or (self._hvdkit.reduces and not self._hvdkit.local):
            return finite

        def exchange(mine):
            pipeline = self._hvdkit.pipeline
            with pipeline.answers.turn() as made:
                made.extend(engine.allreduce(mine, ReduceOp.MIN, [f"{pipeline.prefix}.finite"]))
            return made

        mine = [tf.cast(finite, tf.int32)]
        (everywhere,) = replicas.once(exchange, mine) if replicas.active() else exchange(mine)
        return tf.cast(everywhere, tf.bool)


def adopt(outer: Any) -> None:
    """Make a ``LossScaleOptimizer`` around a distributed optimizer right: it reduces, and asks afterwards."""
    inner = outer.inner_optimizer
    inner._hvdkit.reduces = bool(inner.gradient_accumulation_steps) or inner._hvdkit.rounds is not None
    inner._hvdkit.inside_loss_scale = True
    # The same local variables, also those that are registered later, with either of the two.
    outside = Distribution(inner._hvdkit.pipeline, reduces=not inner._hvdkit.reduces, local=inner._hvdkit.local)
    convert(outer, _ReducingLossScale, outside)


def around_init(original):
    """See to a ``LossScaleOptimizer`` that is put around a distributed optimizer, as ``compile`` does.

    There is no other place to hear of it: the wrapper tells the optimizer inside nothing.
    """

    def __init__(self, *args, **kwargs):
        original(self, *args, **kwargs)
        adopt_once(self)

    return __init__


def around_apply(original):
    """The same for an optimizer that became distributed inside one: the first ``apply`` is before any gradient is
    looked at."""

    def apply(self, grads, trainable_variables=None):
        if adopt_once(self):
            self.apply(grads, trainable_variables)
        else:
            original(self, grads, trainable_variables)

    return apply


def adopt_once(outer: Any) -> bool:
    """``adopt`` a ``LossScaleOptimizer`` that has not been, around a distributed optimizer; whether it needed it."""
    needed = hasattr(outer.inner_optimizer, "_hvdkit") and not hasattr(outer, "_hvdkit")
    if needed:
        adopt(outer)
    return needed
