"""What Keras 3 does differently under a name that it still has: patched to do as Keras 2, or with a warning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hvdkit.compat.deprecations import warn_once
from hvdkit.keras_internals import keras2


def patch_behaviour(keras: Any) -> None:
    """Put them into Keras' classes."""
    _periods(keras)
    _resets(keras)


def _periods(keras: Any) -> None:
    """``ModelCheckpoint.period``: of the saves at an epoch's end every n-th; ``on_epoch_end`` itself is left alone."""
    cls = keras.callbacks.ModelCheckpoint

    def at_periods(save: Callable) -> Callable:
        @functools.wraps(save)
        def save_at_periods(self: Any, epoch: int, batch: int | None, logs: Any) -> None:
            if batch is None:
                self.epochs_since_last_save += 1
                if self.epochs_since_last_save < self.period:
                    return
                self.epochs_since_last_save = 0
            save(self, epoch=epoch, batch=batch, logs=logs)

        return save_at_periods

    cls.period, cls.epochs_since_last_save = 1, 0
    keras2.around_save(keras, at_periods)


def _resets(keras: Any) -> None:
    """``Metric.reset_states``, and ``reset_state`` for classes of the user's that have only the former."""
    cls = keras.metrics.Metric

    def reset_states(self: Any) -> None:
        warn_once("metric.reset_states()", "write metric.reset_state().")
        user_classes = [owner for owner in type(self).__mro__ if "reset_states" in vars(owner) and owner is not cls]
        # What a user's method reaches by super() is the reset of the class that it extends, and not itself once more.
        (super(user_classes[-1], self) if user_classes else self).reset_state()

    def __init_subclass__(subclass: type, **kwargs: Any) -> None:
        super(cls, subclass).__init_subclass__(**kwargs)
        owners = [next(o for o in subclass.__mro__ if name in vars(o)) for name in ("reset_states", "reset_state")]
        if subclass.__mro__.index(owners[0]) < subclass.__mro__.index(owners[1]):
            subclass.reset_state = _by_the_old_name(subclass)

    cls.reset_states, cls.__init_subclass__ = reset_states, classmethod(__init_subclass__)


def _by_the_old_name(cls: Any) -> Callable:
    """``reset_state`` of a metric class that has written ``reset_states``."""

    def reset_state(self: Any) -> None:
        if getattr(self, "resets_as_in_keras_2", False):  # called by its reset_states
            super(cls, self).reset_state()
            return
        warn_once(f"{cls.__name__}.reset_states", "write def reset_state(self): Keras 3 calls that.")
        self.resets_as_in_keras_2 = True
        try:
            self.reset_states()
        finally:
            self.resets_as_in_keras_2 = False

    return reset_state


def _to_categorical(original: Callable) -> Callable:
    """Of the dtype that is asked for, float32 if none is: NumPy arrays are float64 in Keras 3."""

    @functools.wraps(original)
    def to_categorical(*args: Any, dtype: Any = "float32", **kwargs: Any) -> Any:
        import tensorflow as tf

        if len(args) > 2:
            args, dtype = args[:2], args[2]
        made, dtype = original(*args, **kwargs), tf.as_dtype(dtype)
        warn_once(
            "to_categorical()", f'write keras.utils.to_categorical(x).astype("{dtype.name}"): it is float64 otherwise.'
        )
        return tf.cast(made, dtype) if tf.is_tensor(made) else made.astype(dtype.as_numpy_dtype)

    return to_categorical


def _warn_about_hard_sigmoid() -> None:
    warn_once(
        "hard_sigmoid",
        "it is relu6(x + 3) / 6 in Keras 3, and was 0.2 * x + 0.5 between 0 and 1 in Keras 2. For that, give the layer "
        "a function of your own: keras.ops.clip(0.2 * x + 0.5, 0, 1).",
    )


def _get_activation(original: Callable) -> Callable:
    @functools.wraps(original)
    def get(identifier: Any) -> Any:
        if isinstance(identifier, str) and identifier == "hard_sigmoid":
            _warn_about_hard_sigmoid()
        return original(identifier)

    return get


def _hard_sigmoid(original: Callable) -> Callable:
    @functools.wraps(original)
    def hard_sigmoid(x: Any) -> Any:
        _warn_about_hard_sigmoid()
        return original(x)

    return hard_sigmoid


# A module by its name in `keras` -> one of its functions -> the decorator that makes the replacement of Keras 3's.
FUNCTIONS: dict[str, dict[str, Callable[[Callable], Callable]]] = {
    # Layers ask the inner module.
    keras2.INNER_ACTIVATIONS: {"get": _get_activation},
    "keras.activations": {"get": _get_activation, "hard_sigmoid": _hard_sigmoid},
    "keras.utils": {"to_categorical": _to_categorical},
}


def patch_function_behaviour(canonical: str, module: ModuleType) -> None:
    """Put them into one module; ``canonical`` is its name in ``keras``."""
    for name, wrap in FUNCTIONS.get(canonical, {}).items():
        original = vars(module)[name]
        if not hasattr(original, "behaves_as_keras_2"):
            wrapper = wrap(original)
            wrapper.behaves_as_keras_2 = True
            setattr(module, name, wrapper)


def has_changed_behaviour(canonical: str) -> bool:
    """Whether a module has such functions."""
    return canonical in FUNCTIONS
