"""The steps of Keras' update that hvdkit changes, under plain names.

``UpdateHooks`` goes before an optimizer's class. Keras calls its own private method, which calls the hook; the hook as
it is here is Keras' own step. A subclass overrides a hook, and reaches Keras' step by ``super()``.
"""

from __future__ import annotations

from typing import Any


class UpdateHooks:
    """What Keras does in ``apply``, in this order: overwrite, then for all that is left accumulate, clip, update."""

    def hook_overwrite(self, gradients: list, variables: list) -> tuple:
        """Give variables their gradients as values, where they want that; return the others' gradients and the
        others."""
        return super()._overwrite_variables_directly_with_gradients(gradients, variables)

    def hook_apply(self, gradients: list, variables: list) -> None:
        """All that is done with gradients which are unscaled: accumulate, clip, decay, update, average."""
        super()._backend_apply_gradients(gradients, variables)

    def hook_clip(self, gradients: list) -> list:
        """Clip gradients, which are accumulated."""
        return super()._clip_gradients(gradients)

    def hook_update(self, gradients: list, variables: list, rate: Any) -> None:
        """Update variables by gradients that are clipped."""
        super()._backend_update_step(gradients, variables, rate)

    def hook_sum_replicas(self, pairs: list) -> list:
        """Sum gradients, in pairs with their variables, over the replicas of a strategy."""
        return super()._all_reduce_sum_gradients(pairs)

    def _overwrite_variables_directly_with_gradients(self, grads, vars):
        return self.hook_overwrite(grads, vars)

    def _backend_apply_gradients(self, grads, trainable_variables):
        self.hook_apply(grads, trainable_variables)

    def _clip_gradients(self, grads):
        return self.hook_clip(grads)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self.hook_update(grads, trainable_variables, learning_rate)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return self.hook_sum_replicas(grads_and_vars)


class DecayInStep:
    """For an optimizer whose ``update_step`` lets the weights decay: Keras' own decay, apart from the step, is off."""

    def _apply_weight_decay(self, variables):
        """Nothing."""
