"""TensorFlow variables that layers hold: Keras 2 trained them, Keras 3 does not track them. One warning for each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hvdkit.compat.deprecations import warn_once
from hvdkit.keras_internals import keras2

_NOW = (
    "Keras 3 does not count it among the model's weights, so fit does not train it. If it should be trained, "
    "write self.add_weight(shape=..., initializer=...); if not, as for a counter, tf.Variable(..., "
    "trainable=False)."
)
_MAX_NAMES = 8


def patch_untrained(keras: Any) -> None:
    """Let each layer say which ones it holds as soon as it is built, and a model when its training begins."""
    begin = keras.callbacks.CallbackList.on_train_begin

    @functools.wraps(begin)
    def on_train_begin(self: Any, logs: Any = None) -> None:
        _warn_about_untrained(keras2.model_of(self))  # what has come into its layers since
        begin(self, logs)

    def then_warn(built: Callable) -> Callable:
        @functools.wraps(built)
        def post_build(self: Any) -> None:
            built(self)
            _warn_about_untrained(self)

        return post_build

    keras.callbacks.CallbackList.on_train_begin = on_train_begin
    keras2.around_post_build(keras, then_warn)


def _warn_about_untrained(layer: Any) -> None:
    names = _untrained(layer)
    if names:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        warn_once(f"a trainable tf.Variable or K.variable in {', '.join(names[:_MAX_NAMES])}{more}", _NOW)


def _untrained(layer: Any) -> list[str]:
    """The trainable variables of TensorFlow's own that are no layer's weights and not told yet, as layer.attribute."""
    import tensorflow as tf

    from hvdkit.keras_internals import attributes, model_contents

    held = [v for v in model_contents.weights_of(layer) if isinstance(v, tf.Variable) and attributes.tell_once(v)]
    # A whole number has no gradient, in Keras 2 as well.
    names = {id(v): attributes.path_of(v) for v in held if v.trainable and v.dtype.is_floating}
    for inner in model_contents.layers_of(layer) if names else ():
        for name, value in vars(inner).items():
            for place, part in ((name, value), *_elements(name, value)):
                if id(part) in names:
                    names[id(part)] = f"{inner.name}.{place}"
    return list(names.values())


def _elements(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"{name}.{key}", part) for key, part in value.items()]
    return [(f"{name}.{i}", part) for i, part in enumerate(value)] if isinstance(value, list | tuple) else []
