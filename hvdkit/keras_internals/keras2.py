"""What ``hvdkit.compat`` changes inside Keras 3. It is called while Keras is imported, and so imports none itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: The module that layers ask for their activation.
INNER_ACTIVATIONS = "keras.src.activations"
#: Where Keras keeps what ``tf.keras`` is.
TF_KERAS = "keras._tf_keras.keras"


def tf_keras_module(name: str) -> str:
    """The module that ``tf.keras`` has for one of ``keras``.

    >>> tf_keras_module("keras.layers")
    'keras._tf_keras.keras.layers'
    """
    return TF_KERAS + name.removeprefix("keras")


def around_sequential_rebuild(keras: Any, wrap: Callable[[Callable], Callable]) -> None:
    """Let a ``Sequential`` be built anew, when a layer is added, by what ``wrap`` makes of Keras' own method."""
    keras.Sequential._maybe_rebuild = wrap(keras.Sequential._maybe_rebuild)


def layers_so_far(model: Any) -> list:
    """The layers of a ``Sequential``, that of its input too."""
    return model._layers


def leave_unbuilt(model: Any) -> None:
    """Let a ``Sequential`` be built by its first call."""
    model.built, model._functional = False, None


def around_post_build(keras: Any, wrap: Callable[[Callable], Callable]) -> None:
    """Let what is done once a layer is built be what ``wrap`` makes of Keras' own method."""
    keras.layers.Layer._post_build = wrap(keras.layers.Layer._post_build)


def around_save(keras: Any, wrap: Callable[[Callable], Callable]) -> None:
    """Let ``ModelCheckpoint`` save by what ``wrap`` makes of Keras' own method."""
    keras.callbacks.ModelCheckpoint._save_model = wrap(keras.callbacks.ModelCheckpoint._save_model)


def calls_of(layer: Any) -> list:
    """The calls of a layer, in their order: nodes with ``input_tensors`` and ``outputs``."""
    return layer._inbound_nodes


def model_of(callbacks: Any) -> Any:
    """The model that a list of callbacks is for."""
    return callbacks._model
