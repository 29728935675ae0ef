"""The optimizer that reduces its gradients over the ranks in each update."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hvdkit.errors import UsageError
from hvdkit.grads import batch_weight
from hvdkit.keras_internals import optimizers
from hvdkit.keras_internals.attributes import own_reduction_state
from hvdkit.optim.convert import LocalVariableMixin
from hvdkit.optim.ownership import check_ownership
from hvdkit.optim.replicated import ReplicaMixin


class AllreduceMixin(LocalVariableMixin, ReplicaMixin):
    """Reduces where Keras has unscaled and accumulated, and has not clipped yet."""

    def apply(self, grads, trainable_variables=None):
        state = own_reduction_state(self)
        if state.pipeline.engine.size > 1:
            check_ownership(self, trainable_variables)
        if not state.inside_loss_scale:
            grads = batch_weight.weigh_gradients(grads)
        super().apply(grads, trainable_variables)

    def hook_apply(self, gradients, variables):
        own_reduction_state(self).variables = variables  # for hook_clip, which is not told them
        super().hook_apply(gradients, variables)

    def hook_clip(self, gradients):
        # Inside Keras' cond on the k-th of k accumulated steps; every rank counts the same steps.
        state = own_reduction_state(self)
        if state.reduces:
            gradients = self.reduce_gradients(gradients, state.variables)
        if state.sum_of_passes != 1:
            gradients = [g * state.sum_of_passes for g in gradients]
        return super().hook_clip(gradients)

    def reduce_gradients(self, gradients: list, variables: list) -> list:
        """Reduce gradients over the ranks; to be overridden where that is not done in each update."""
        return own_reduction_state(self).reduce(gradients, variables, optimizers.variable_indices(self, variables))

    def hook_overwrite(self, gradients, variables):
        several = own_reduction_state(self).pipeline.engine.size > 1
        if several and any(optimizers.overwrites_with_gradient(self, v) for v in variables):
            raise UsageError(
                "This model's float8 scales are overwritten by their gradients, which is not supported on several "
                "ranks: each rank would have its own.",
                fix="train it in float32, bfloat16 or float16.",
            )
        if self.loss_scale_factor is not None:  # Keras is about to divide by it
            gradients = _dense(gradients)
        return super().hook_overwrite(gradients, variables)


def _dense(gradients: list) -> list[Any]:
    """Slices made dense; for where Keras raises on them."""
    return [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
