"""A distributed optimizer on the replicas of a strategy: what Keras does there replica by replica, done for all.

Keras adds up the replicas' gradients last, in the update. So it clips each replica's own gradient, and it accumulates
and overwrites by averages inside a ``cond`` that the update may not stand in. Here they are added up first.
"""

from __future__ import annotations

import tensorflow as tf

from hvdkit.errors import UsageError
from hvdkit.grads import replicas


class OnReplicas:
    """The order of things on replicas: sum, accumulate, reduce over the ranks, clip, decay, update, average."""

    def build(self, variables):
        _check_scope(self)
        super().build(variables)

    def _backend_apply_gradients(self, grads, trainable_variables):
        if not replicas.active():
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        _check_scope(self)
        if not self._hvdkit.inside_loss_scale:
            grads = replicas.total(grads)
        _accumulate_or_update(self, grads, list(trainable_variables))
        if self.use_ema:
            _average(self)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        if replicas.active():
            return list(grads_and_vars)  # summed already
        return super()._all_reduce_sum_gradients(grads_and_vars)


def _check_scope(optimizer) -> None:
    if tf.distribute.has_strategy() and optimizer._distribution_strategy is not tf.distribute.get_strategy():
        raise UsageError(
            f"This {type(optimizer).__name__} was made outside the strategy it trains under: its variables are not "
            "mirrored, and every replica would count each step.",
            fix="make the model and the optimizer, and compile, inside `with strategy.scope():`.",
        )


def _accumulate_or_update(optimizer, grads: list, variables: list) -> None:
    """As ``BaseOptimizer._backend_apply_gradients``; the replicas' accumulators hold sums, and are equal."""

    def update(grads):
        grads = optimizer._clip_gradients(grads)
        optimizer._apply_weight_decay(variables)
        *grads, rate = replicas.settled([*grads, optimizer.learning_rate])
        optimizer._backend_update_step(grads, variables, rate)

    steps = optimizer.gradient_accumulation_steps
    if not steps:
        update(grads)
        return
    accumulators = [optimizer._accumulated_gradients[optimizer._get_variable_index(v)] for v in variables]

    def update_with_all(grads):
        update([(gradient + before) / steps for gradient, before in zip(grads, accumulators, strict=True)])
        optimizer._backend_reset_gradient_accumulators()

    def accumulate(grads):
        optimizer._backend_increment_gradient_accumulators(grads, accumulators)

    replicas.cond(lambda: (optimizer._iterations + 1) % steps == 0, update_with_all, accumulate, grads)


def _average(optimizer) -> None:
    """As the same, for the moving averages of the weights."""
    variables = optimizer._trainable_variables
    optimizer._update_model_variables_moving_average(variables)
    every = optimizer.ema_overwrite_frequency
    if every:
        replicas.cond(
            lambda: (optimizer.iterations + 1) % every == 0,
            lambda _: optimizer._overwrite_model_variables_with_average_value(variables),
            lambda _: None,
            [],
        )
