"""Keras 2's optimizers: arguments and attributes in Keras 3's words, and what a custom one is to be changed into."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from hvdkit.compat.deprecations import warn_once
from hvdkit.errors import UsageError

GONE = {
    "_aggregate_gradients": "hvd.DistributedOptimizer reduces in optimizer.apply.",
    "_compute_gradients": "tf.GradientTape.",
    "aggregate_gradients": "hvd.DistributedOptimizer reduces in optimizer.apply.",
    "compute_gradients": "tf.GradientTape.",
    "get_gradients": "tf.GradientTape.",
    "get_updates": "optimizer.apply(gradients, variables).",
    "get_weights": "[variable.numpy() for variable in optimizer.variables].",
    "minimize": "tf.GradientTape, and optimizer.apply(gradients, variables).",
    "weights": "optimizer.variables.",
}
# What an optimizer written for Keras 2 has, and none for Keras 3.
_OLD_METHODS = ("_create_slots", "_resource_apply_dense", "_resource_apply_sparse", "_create_all_weights")
_NOW = (
    "super().__init__(learning_rate=learning_rate, name=name, **kwargs); build(self, variables) makes the slots with "
    "add_variable_from_reference(variable, name); update_step(self, gradient, variable, learning_rate) updates one "
    "variable, also where the gradient is tf.IndexedSlices."
)


def patch_optimizers(keras: Any) -> None:
    """Put them into Keras' classes."""
    _optimizer_arguments(keras)
    _optimizer_attributes(keras)
    _loss_scale(keras)


def _optimizer_arguments(keras: Any) -> None:
    """``lr=`` is ``learning_rate=``, and ``decay=`` a schedule: lr / (1 + decay * iterations), as in Keras 2."""
    original = keras.optimizers.Optimizer.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        # A subclass passes its learning rate on as the first argument or by name, and hands through what it knows not.
        _refuse_keras_2(self)
        for name in ("jit_compile", "is_legacy_optimizer"):
            if kwargs.pop(name, None) is not None:
                warn_once(f"optimizer({name}=)", "delete it: compile(jit_compile=) says it for the step.")
        rate, decay = kwargs.pop("lr", None), kwargs.pop("decay", None)
        if rate is not None:
            warn_once("optimizer(lr=)", "write learning_rate=.")
        elif args:
            rate = args[0]
        else:
            rate = kwargs.get("learning_rate")
        if rate is None:
            raise UsageError(f"{type(self).__name__} gives Keras no learning rate, as in Keras 2.", fix=_NOW)
        if decay:
            rate = _decayed(keras, rate, decay)
        if args:
            args = (rate, *args[1:])
        elif rate is not None:
            kwargs["learning_rate"] = rate
        original(self, *args, **kwargs)

    keras.optimizers.Optimizer.__init__ = __init__


def _refuse_keras_2(optimizer: Any) -> None:
    """Say of an optimizer of the user's that was written for Keras 2 what its methods are called now."""
    cls = type(optimizer)
    old = [name for name in _OLD_METHODS if hasattr(cls, name)]
    step = inspect.signature(cls.update_step)
    try:
        step.bind(optimizer, None, None, None)
    except TypeError:
        old.append(f"update_step{step}")
    if old:
        raise UsageError(f"{cls.__name__} is written for Keras 2: it has {', '.join(old)}.", fix=_NOW)


def _decayed(keras: Any, rate: Any, decay: float) -> Any:
    if callable(rate):
        raise UsageError("An optimizer has either a schedule or decay=.", fix="delete decay=.")
    warn_once(
        "optimizer(decay=)",
        "write learning_rate=keras.optimizers.schedules.InverseTimeDecay(lr, decay_steps=1, decay_rate=decay). "
        "Its learning rate cannot be set then: with a callback that sets it, delete decay=.",
    )
    return keras.optimizers.schedules.InverseTimeDecay(rate, decay_steps=1, decay_rate=decay)


def _optimizer_attributes(keras: Any) -> None:
    """``optimizer.lr``, which Keras 3 would let one set without any effect, and ``optimizer.variables()``."""

    def get(self: Any) -> Any:
        warn_once("optimizer.lr", "write optimizer.learning_rate.")
        return self.learning_rate

    def set_(self: Any, value: Any) -> None:
        warn_once("optimizer.lr", "write optimizer.learning_rate.")
        self.learning_rate = value

    keras.optimizers.Optimizer.lr = property(get, set_)
    variables = keras.optimizers.Optimizer.variables
    keras.optimizers.Optimizer.variables = property(lambda self: _Callable(variables.fget(self)))


class _Callable(list):
    """A list that may also be called for itself."""

    def __call__(self) -> _Callable:
        warn_once("optimizer.variables()", "write optimizer.variables.")
        return self


def _loss_scale(keras: Any) -> None:
    """``get_scaled_loss`` and ``get_unscaled_gradients``, after which ``apply`` must not unscale once more.

    What is kept for ``apply`` is what the loop does, not what one step has done: ``apply`` may be called more than once
    for what was unscaled together, and be traced again without the function that unscales.
    """
    cls = keras.mixed_precision.LossScaleOptimizer
    apply, scale_loss = cls.apply, cls.scale_loss

    def get_scaled_loss(self: Any, loss: Any) -> Any:
        warn_once("optimizer.get_scaled_loss()", "write optimizer.scale_loss().")
        return (lambda: self.scale_loss(loss())) if callable(loss) else self.scale_loss(loss)

    def get_unscaled_gradients(self: Any, grads: list) -> list:
        warn_once("optimizer.get_unscaled_gradients()", "delete it: optimizer.apply unscales.")
        self.unscaled_by_keras_2 = True
        return _times(grads, 1 / _scale(self))

    @functools.wraps(scale_loss)
    def scale(self: Any, loss: Any) -> Any:
        self.unscaled_by_keras_2 = False  # a loop in Keras 3's words, as `fit` is, until one unscales
        return scale_loss(self, loss)

    @functools.wraps(apply)
    def apply_scaled(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        if getattr(self, "unscaled_by_keras_2", False):
            # The scale is a power of two, so unscaling and scaling again gives the same gradient to the last bit.
            grads = _times(grads, _scale(self))
        return apply(self, grads, trainable_variables)

    cls.get_scaled_loss, cls.get_unscaled_gradients = get_scaled_loss, get_unscaled_gradients
    cls.apply, cls.scale_loss = apply_scaled, scale
    cls.loss_scale = property(_scale)


def _scale(optimizer: Any) -> Any:
    import tensorflow as tf

    return tf.convert_to_tensor(optimizer.dynamic_scale if optimizer.built else optimizer.initial_scale, tf.float32)


def _times(gradients: list, factor: Any) -> list:
    from hvdkit.grads import batch_weight  # it needs Keras, which asks for this module while it is imported

    return batch_weight.times(gradients, factor)
