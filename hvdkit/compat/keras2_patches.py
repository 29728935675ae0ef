"""Patches that make Keras 3's models and optimizers accept the API of Keras 2, and refuse what no longer exists.

``PATCHES`` is the table: each line installs one of them into Keras' own classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hvdkit.compat import keras2_arguments, keras2_attributes, keras2_behaviour, keras2_optimizers, keras2_untrained
from hvdkit.compat.deprecations import GoneError, warn_once

GENERATORS = {"fit_generator": "fit", "evaluate_generator": "evaluate", "predict_generator": "predict"}
GONE_FROM_MODELS = {
    "predict_classes": "model.predict(x).argmax(axis=-1).",
    "predict_proba": "model.predict(x).",
    "reset_states": "call reset_states() of its recurrent layers, or keras.Model.reset_metrics() for its metrics.",
}


def patch_keras(keras: Any) -> None:
    """Apply all patches to Keras."""
    for patch in PATCHES:
        patch(keras)


def _generators(keras: Any) -> None:
    """``fit_generator`` and its like: today's methods take generators themselves."""

    def fit_generator(  # noqa: PLR0917  Keras 2's arguments in Keras 2's order, here and below
        self: Any,
        generator: Any,
        steps_per_epoch: int | None = None,
        epochs: int = 1,
        verbose: Any = 1,
        callbacks: Any = None,
        validation_data: Any = None,
        validation_steps: int | None = None,
        validation_freq: Any = 1,
        class_weight: Any = None,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
        shuffle: bool = True,
        initial_epoch: int = 0,
    ) -> Any:
        return self.fit(
            generator,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_data=validation_data,
            validation_steps=validation_steps,
            validation_freq=validation_freq,
            class_weight=class_weight,
            shuffle=shuffle,
            initial_epoch=initial_epoch,
        )

    def evaluate_generator(  # noqa: PLR0917
        self: Any,
        generator: Any,
        steps: int | None = None,
        callbacks: Any = None,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
        verbose: Any = 0,
    ) -> Any:
        return self.evaluate(generator, steps=steps, callbacks=callbacks, verbose=verbose)

    def predict_generator(  # noqa: PLR0917
        self: Any,
        generator: Any,
        steps: int | None = None,
        callbacks: Any = None,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
        verbose: Any = 0,
    ) -> Any:
        return self.predict(generator, steps=steps, callbacks=callbacks, verbose=verbose)

    for method in (fit_generator, evaluate_generator, predict_generator):
        setattr(keras.Model, method.__name__, _warning_method(method, GENERATORS[method.__name__]))


def _warning_method(method: Callable, now: str) -> Callable:
    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        warn_once(f"model.{method.__name__}", f"write model.{now}, which takes generators.")
        return method(self, *args, **kwargs)

    return wrapper


def _gone(keras: Any) -> None:
    """Methods that no longer exist: they raise, with what to write instead."""
    for cls, names in ((keras.Model, GONE_FROM_MODELS), (keras.optimizers.Optimizer, keras2_optimizers.GONE)):
        for name, fix in names.items():
            setattr(cls, name, _Gone(f"{cls.__name__}.{name}", fix))


class _Gone:
    """An attribute that no longer exists, on an instance as on the class."""

    def __init__(self, name: str, fix: str):
        self._name, self._fix = name, fix

    def __get__(self, instance: Any, owner: type) -> Any:
        raise GoneError(f"Keras 3 has no {self._name}.", fix=self._fix)


PATCHES = (
    keras2_arguments.patch_arguments,
    keras2_attributes.patch_attributes,
    keras2_behaviour.patch_behaviour,
    keras2_optimizers.patch_optimizers,
    keras2_untrained.patch_untrained,
    _generators,
    _gone,
)
