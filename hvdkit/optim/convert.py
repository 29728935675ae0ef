"""Turning a Keras optimizer into a distributed one, in place."""

from __future__ import annotations

import functools
from typing import Any

import keras

from hvdkit.keras_internals import attributes
from hvdkit.optim.reduction_state import ReductionState


class LocalVariableMixin:
    """What Horovod adds to an optimizer's methods."""

    def register_local_var(self, var: Any) -> None:
        """Keep the gradient of a variable (Keras' or TensorFlow's) this rank's own: it is not reduced.

        It is divided by the number of ranks, unless the optimizer was made with ``scale_local_gradients=False``.
        """
        attributes.own_reduction_state(self).local.add(var)


# The classes that are made here: of which class each is, and which mixin is before it.
_made_of: dict[type, tuple[type, type]] = {}


def convert(optimizer: Any, mixin: type, state: ReductionState) -> None:
    """Put ``mixin`` before the optimizer's class. The object stays: its slots, its iterations, who else holds it."""
    attributes.set_reduction_state(optimizer, state)
    # In a world that is over it may have been distributed already, in this way or in another.
    base, before = _made_of.get(type(optimizer), (type(optimizer), None))
    if before is not mixin:
        optimizer.__class__ = distributed_class(base, mixin)


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
    _made_of[new] = base, mixin
    registered = keras.saving.get_registered_name(base)
    if registered != base.__name__:  # a user's own class, registered under "package>name"
        package, _, name = registered.partition(">")
        keras.saving.register_keras_serializable(package, name)(new)
    return new
