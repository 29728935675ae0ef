"""Loss scaling over several ranks: every rank skips a step, or none does.

``LossScaleOptimizer`` asks its own gradients whether they are finite, and runs the inner optimizer only then, in a
``cond``. With a NaN on one rank, that rank would skip, and the others would wait in a reduction it never makes. So the
gradients are reduced before it asks; where the inner optimizer accumulates, whose reduction comes later, the ranks
exchange the one answer.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hvdkit.comm.engine import ReduceOp
from hvdkit.grads import batch_weight, replica_context
from hvdkit.keras_internals import optimizers
from hvdkit.keras_internals.attributes import own_reduction_state
from hvdkit.keras_internals.model_contents import reduction_state_of
from hvdkit.optim.convert import LocalVariableMixin, convert
from hvdkit.optim.reduction_state import ReductionState


class _ReducingLossScale(LocalVariableMixin):
    """Asks for finite gradients after the reduction, or together."""

    def apply(self, grads, trainable_variables=None):
        # After the sum over the replicas, a NaN of one replica is on all of them.
        grads = replica_context.all_reduce_replicas(batch_weight.weigh_gradients(grads))
        state = own_reduction_state(self)
        if state.reduces:
            variables = trainable_variables or optimizers.trainable_variables(self)
            # Not built yet, it is about to be built with just these variables, in this order.
            indices = optimizers.variable_indices(self, variables) if self.built else None
            grads = state.reduce(grads, variables, indices)
        super().apply(grads, trainable_variables)

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        state = own_reduction_state(self)
        pipeline = state.pipeline
        # What was reduced is the same everywhere; what is local, or not reduced yet, is not.
        if pipeline.engine.size == 1 or (state.reduces and not state.local):
            return finite

        def exchange(local_flag):
            with pipeline.finite_order.next() as made:
                made.extend(pipeline.engine.allreduce(local_flag, ReduceOp.MIN, [f"{pipeline.prefix}.finite"]))
            return made

        local_flag = [tf.cast(finite, tf.int32)]
        if replica_context.is_active():
            (finite_on_all_ranks,) = replica_context.merge_call_once(exchange, local_flag)
        else:
            (finite_on_all_ranks,) = exchange(local_flag)
        return tf.cast(finite_on_all_ranks, tf.bool)


def wrap_loss_scale_optimizer(outer: Any) -> None:
    """Make a ``LossScaleOptimizer`` around a distributed optimizer right: it reduces, and asks afterwards."""
    inside = own_reduction_state(outer.inner_optimizer)
    inside.reduces = bool(outer.inner_optimizer.gradient_accumulation_steps) or not inside.is_synchronous
    inside.inside_loss_scale = True
    # The same local variables, also those that are registered later, with either of the two.
    outside = ReductionState(inside.pipeline, reduces=not inside.reduces, local=inside.local)
    convert(outer, _ReducingLossScale, outside)


def around_init(original):
    """See to a ``LossScaleOptimizer`` that is put around a distributed optimizer, as ``compile`` does.

    There is no other place to hear of it: the wrapper tells the optimizer inside nothing.
    """

    def __init__(self, *args, **kwargs):
        original(self, *args, **kwargs)
        wrap_once(self)

    return __init__


def around_apply(original):
    """The same for an optimizer that became distributed inside one: the first ``apply`` is before any gradient is
    looked at."""

    def apply(self, grads, trainable_variables=None):
        if wrap_once(self):
            self.apply(grads, trainable_variables)
        else:
            original(self, grads, trainable_variables)

    return apply


def wrap_once(outer: Any) -> bool:
    """Wrap a ``LossScaleOptimizer`` around a distributed optimizer that has not been; whether it needed it."""
    needed = reduction_state_of(outer) is not None and not isinstance(outer, _ReducingLossScale)
    if needed:
        wrap_loss_scale_optimizer(outer)
    return needed
