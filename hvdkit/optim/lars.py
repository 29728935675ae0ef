"""LARS: SGD with momentum in which each layer's step is as long as its weights allow."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from hvdkit.errors import UsageError
from hvdkit.keras_internals import optimizers
from hvdkit.keras_internals.optimizer_hooks import DecayInStep
from hvdkit.optim.exclusion import is_bias_or_norm
from hvdkit.utils.numbers import real


@keras.saving.register_keras_serializable("hvdkit")
class LARS(DecayInStep, keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling, for SGD with very large batches.

    For each weight ``w`` with the gradient ``g``::

        ratio = trust_coefficient * |w| / (|g| + weight_decay * |w| + epsilon)      1 where |w| or |g| is 0
        velocity = momentum * velocity + learning_rate * ratio * (g + weight_decay * w)
        w = w - velocity

    Biases and the weights of normalization layers are trained as in plain SGD with momentum: the ratio is 1, and there
    is no decay. The weight decay is inside the step, as in the paper, and not decoupled as in Keras. Norms are computed
    in float32.

    Args:
        learning_rate: a number or a schedule. Because the ratio makes steps short, it is about 10 to 100 times that of
            SGD.
        momentum: between 0 and 1.
        trust_coefficient: by how much of its own norm a weight may change at ``learning_rate=1``.
        epsilon: keeps the ratio finite.
        weight_decay: the weight decay of all weights that are not excluded.
        nesterov: look ahead: the step is ``momentum * velocity`` (with the new velocity) plus the scaled gradient.
        exclude: the weights that are trained as in plain SGD. None excludes biases and normalization weights
            (``hvd.optim.is_bias_or_norm``); a list such as ``["bias"]`` contains parts of the weights' paths; ``[]``
            excludes none.
        kwargs: the arguments of any Keras optimizer: ``global_clipnorm``, ``gradient_accumulation_steps``, ...

    Raises:
        UsageError: a number is out of range.

    Paper: Y. You, I. Gitman, B. Ginsburg, "Large Batch Training of Convolutional Networks", arXiv:1708.03888, 2017,
    algorithm 1.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> optimizer = hvd.DistributedOptimizer(hvd.optim.LARS(4.0, momentum=0.9, weight_decay=1e-4))
    """

    def __init__(  # noqa: PLR0917  as Keras' own optimizers
        self,
        learning_rate: Any = 1.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        epsilon: float = 1e-9,
        weight_decay: float | None = 0.0,
        nesterov: bool = False,
        exclude: list[str] | None = None,
        name: str = "lars",
        **kwargs: Any,
    ):
        momentum, epsilon = real(momentum, "momentum"), real(epsilon, "epsilon")
        trust_coefficient = real(trust_coefficient, "trust_coefficient")
        weight_decay = None if weight_decay is None else real(weight_decay, "weight_decay")
        if not 0 <= momentum <= 1:
            raise UsageError(f"`momentum` must be between 0 and 1. Received: momentum={momentum!r}.")
        for what, value in {"trust_coefficient": trust_coefficient, "weight_decay": weight_decay or 0.0}.items():
            if value < 0:
                raise UsageError(f"`{what}` must not be below 0. Received: {what}={value!r}.")
        if isinstance(exclude, str):
            raise UsageError(f"`exclude` must be a list of names. Received: exclude={exclude!r}.", fix=f"[{exclude!r}]")
        super().__init__(learning_rate=learning_rate, name=name, weight_decay=weight_decay, **kwargs)
        self.momentum, self.nesterov = momentum, nesterov
        self.trust_coefficient, self.epsilon = trust_coefficient, epsilon
        self.exclude = exclude

    velocity_holds_rate = True  # as SGD's: momentum correction scales it

    def build(self, var_list):
        """Make a velocity for each of these variables."""
        if self.built:
            return
        super().build(var_list)
        self.momentums = [self.add_variable_from_reference(v, name="momentum") for v in var_list]
        self._plain = [self._is_plain(v) for v in var_list]  # now: a replica's variable has another name

    def _is_plain(self, variable: Any) -> bool:
        if self.exclude is None:
            return is_bias_or_norm(variable)
        return any(part in getattr(variable, "path", variable.name) for part in self.exclude)

    def update_step(self, gradient, variable, learning_rate):
        """One weight's step."""
        dtype = variable.dtype
        if isinstance(gradient, tf.IndexedSlices):  # its norm is that of the sums of rows
            gradient = tf.convert_to_tensor(gradient)
        rate, gradient = ops.cast(learning_rate, dtype), ops.cast(gradient, dtype)
        number = optimizers.variable_index(self, variable)
        if not self._plain[number]:
            decay = self.weight_decay if self.weight_decay and optimizers.decays(self, variable) else 0.0
            weight_norm, gradient_norm = _norm(variable), _norm(gradient)
            ratio = self.trust_coefficient * weight_norm / (gradient_norm + decay * weight_norm + self.epsilon)
            ratio = ops.where((weight_norm > 0) & (gradient_norm > 0), ratio, 1.0)
            gradient = ops.cast(ratio, dtype) * (gradient + decay * variable)
        step = rate * gradient
        velocity = self.momentums[number]
        self.assign(velocity, ops.add(ops.multiply(velocity, self.momentum), step))
        self.assign_sub(variable, ops.add(ops.multiply(velocity, self.momentum), step) if self.nesterov else velocity)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "trust_coefficient": self.trust_coefficient,
            "epsilon": self.epsilon,
            "exclude": self.exclude,
        }


def _norm(tensor: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(ops.cast(tensor, "float32"))))
