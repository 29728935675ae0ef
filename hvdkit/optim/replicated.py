"""A distributed optimizer on the replicas of a strategy: what Keras does there replica by replica, done for all.

Keras adds up the replicas' gradients last, in the update. So it clips each replica's own gradient, and it accumulates
and overwrites by averages inside a ``cond`` that the update may not stand in. Here they are added up first.
"""

from __future__ import annotations

import tensorflow as tf

from hvdkit.errors import UsageError
from hvdkit.grads import replica_context
from hvdkit.keras_internals import optimizers
from hvdkit.keras_internals.attributes import own_reduction_state
from hvdkit.keras_internals.optimizer_hooks import UpdateHooks


class ReplicaMixin(UpdateHooks):
    """The order of things on replicas: sum, accumulate, reduce over the ranks, clip, decay, update, average."""

    def build(self, variables):
        _check_scope(self)
        super().build(variables)

    def hook_apply(self, gradients, variables):
        if not replica_context.is_active():
            super().hook_apply(gradients, variables)
            return
        _check_scope(self)
        if not own_reduction_state(self).inside_loss_scale:
            gradients = replica_context.all_reduce_replicas(gradients)
        _accumulate_or_update(self, gradients, list(variables))
        if self.use_ema:
            _average(self)

    def hook_sum_replicas(self, pairs):
        if replica_context.is_active():
            return list(pairs)  # summed already
        return super().hook_sum_replicas(pairs)


def _check_scope(optimizer) -> None:
    if tf.distribute.has_strategy() and optimizers.strategy_of(optimizer) is not tf.distribute.get_strategy():
        raise UsageError(
            f"This {type(optimizer).__name__} was created outside the strategy in which it trains: its variables are "
            "not mirrored, and every replica would count each step.",
            fix="create the model and the optimizer, and compile, inside `with strategy.scope():`.",
        )


def _accumulate_or_update(optimizer, grads: list, variables: list) -> None:
    """As Keras' own ``hook_apply``; the replicas' accumulators hold sums, and are equal."""

    def update(grads):
        grads = optimizers.clip(optimizer, grads)
        optimizers.decay(optimizer, variables)
        *grads, rate = replica_context.materialized([*grads, optimizer.learning_rate])
        optimizers.update(optimizer, grads, variables, rate)

    steps = optimizer.gradient_accumulation_steps
    if not steps:
        update(grads)
        return
    accumulators = optimizers.accumulators_of(optimizer, variables)

    def update_with_all(grads):
        update([(gradient + before) / steps for gradient, before in zip(grads, accumulators, strict=True)])
        optimizers.reset_accumulators(optimizer)

    def accumulate(grads):
        optimizers.accumulate(optimizer, grads, accumulators)

    replica_context.cond(
        lambda: (optimizers.step_counter(optimizer) + 1) % steps == 0, update_with_all, accumulate, grads
    )


def _average(optimizer) -> None:
    """As the same, for the moving averages of the weights."""
    optimizers.update_moving_averages(optimizer)
    every = optimizer.ema_overwrite_frequency
    if every:
        replica_context.cond(
            lambda: (optimizer.iterations + 1) % every == 0,
            lambda _: optimizers.overwrite_with_averages(optimizer),
            lambda _: None,
            [],
        )
