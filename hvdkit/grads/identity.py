"""Which variable is which: by identity, never by name (in Keras 3 every second variable is called "kernel")."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import backend_variable, mark_local
from hvdkit.keras_internals.variables import unique_id


def identity(variable: Any) -> Any:
    """The same for a Keras variable, the TensorFlow variable it holds and, under a strategy, each replica's part."""
    return unique_id(backend_variable(variable))


def name_of(variable: Any) -> str:
    """A variable's own name; a tensor inside a graph has one too, an eager one has none."""
    if isinstance(variable, keras.Variable | tf.Variable):
        return variable.name.partition(":")[0]
    return "tensor"


def variables_of_layers(layers: Any) -> list:
    """The trainable weights of a layer or of several.

    Raises:
        UsageError: something among them is no Keras layer, or is not built yet.
    """
    if layers is None:
        return []
    layers = [layers] if isinstance(layers, keras.layers.Layer) else list(layers)
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise UsageError(f"`local_layers` must be Keras layers. Received: {layer!r}.")
        if not layer.built and not layer.weights:
            raise UsageError(
                f"The local layer {layer.name} is not built: it has no weights yet that could be kept local.",
                fix="build the model first, e.g. model(x[:1]).",
            )
    return [variable for layer in layers for variable in layer.trainable_weights]


def check_variable(variable: Any) -> Any:
    """Refuse what is no variable."""
    if not isinstance(variable, keras.Variable | tf.Variable):
        raise UsageError(f"A Keras or TensorFlow variable is needed. Received: {variable!r}.")
    return variable


class LocalVariables:
    """Variables whose gradients are each rank's own."""

    def __init__(self) -> None:
        self._held: dict[Any, Any] = {}

    def add(self, variable: Any) -> None:
        """Put a variable in; from now on nothing asks for it to be equal on all ranks."""
        mark_local(check_variable(variable))
        self._held[identity(variable)] = variable  # kept, lest another one gets its identity

    def __contains__(self, variable: Any) -> bool:
        return identity(variable) in self._held

    def __bool__(self) -> bool:
        return bool(self._held)
