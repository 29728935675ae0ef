"""Turning a Keras optimizer into a distributed one, in place."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras

from hvdkit.grads.identity import LocalVariables
from hvdkit.grads.pipeline import GradientPipeline
from hvdkit.keras_internals.training_state import note_distributed
from hvdkit.optim.local_sgd.state import Rounds


@dataclass(eq=False)
class Distribution:
    """What a distributed optimizer carries as ``_hvdkit``.

    ``reduces`` is whether this optimizer runs the pipeline, and ``inside_loss_scale`` whether it is the inner one of a
    ``LossScaleOptimizer``, which then weighs its gradients and adds up those of a strategy's replicas. ``local`` are
    the variables whose gradients stay this rank's own. ``sum_of_passes`` is by what an accumulated mean is multiplied
    to be Horovod's sum. ``rounds`` are those of local SGD, if that is what the optimizer does.
    Keras does not track it: nothing of it is in a saved model.
    """

    pipeline: GradientPipeline
    reduces: bool = True
    inside_loss_scale: bool = False
    variables: list = field(default_factory=list)
    local: LocalVariables = field(default_factory=LocalVariables)
    sum_of_passes: int = 1
    rounds: Rounds | None = None
    _passes_through: bool = False

    def stateful(self) -> dict[str, Any]:
        """What decides how gradients are reduced, and may be ``Stateful``, by its name in a checkpoint."""
        return {"reducers": self.pipeline.arguments.reducer, "local_sgd": self.rounds}

    def reduce(self, gradients: list, variables: list, numbers: list[int] | None) -> list:
        """Run the pipeline over the gradients that are not local."""
        if self._passes_through:
            return list(gradients)
        return self.pipeline(list(gradients), list(variables), numbers, local=self.local)

    @contextlib.contextmanager
    def reduced_already(self) -> Iterator[None]:
        """Inside, ``reduce`` gives back what it gets: it went through the pipeline before."""
        self._passes_through = True
        try:
            yield
        finally:
            self._passes_through = False


class Registering:
    """What Horovod adds to an optimizer's methods."""

    def register_local_var(self, var: Any) -> None:
        """Keep the gradient of a variable (Keras' or TensorFlow's) this rank's own: it is not reduced.

        It is divided by the number of ranks, unless the optimizer was made with ``scale_local_gradients=False``.
        """
        self._hvdkit.local.add(var)


def convert(optimizer: Any, mixin: type, distribution: Distribution) -> None:
    """Put ``mixin`` before the optimizer's class. The object stays: its slots, its iterations, who else holds it."""
    optimizer._hvdkit = distribution
    note_distributed(optimizer)
    if not isinstance(optimizer, mixin):  # it is already where it was distributed in a world that is over
        optimizer.__class__ = distributed_class(type(optimizer), mixin)


@functools.cache
def distributed_class(base: type, mixin: type) -> type:
    """The subclass of an optimizer's class with ``mixin`` before it.

    It keeps the name and module that Keras writes into a saved model, so that the model opens without hvdkit.
    """
    module = "keras.optimizers" if getattr(keras.optimizers, base.__name__, None) is base else base.__module__

    def from_config(cls, config, **kwargs):
        return base.from_config(config, **kwargs)  # a config describes the plain optimizer

    new = type(
        base.__name__,
        (mixin, base),
        {"__module__": module, "__doc__": base.__doc__, "from_config": classmethod(from_config)},
    )
    registered = keras.saving.get_registered_name(base)
    if registered != base.__name__:  # a user's own class, registered under "package>name"
        package, _, name = registered.partition(">")
        keras.saving.register_keras_serializable(package, name)(new)
    return new
