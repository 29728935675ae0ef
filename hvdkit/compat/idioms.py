"""What Keras 2 let one say to a model and an optimizer, put into Keras 3's words.

``IDIOMS`` is the table: each line installs one of them into Keras' own classes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from hvdkit.compat.notices import GoneError, say
from hvdkit.errors import UsageError

_WORKERS = "delete it: Keras 3 takes it in keras.utils.PyDataset(workers=..., use_multiprocessing=...)."
_QUEUE = dict.fromkeys(("workers", "use_multiprocessing", "max_queue_size"), _WORKERS)
# Method -> argument -> what to write instead. They have no effect any more.
DROPPED = {
    "compile": {"experimental_run_tf_function": "delete it."},
    "fit": _QUEUE,
    "evaluate": _QUEUE,
    "predict": _QUEUE,
}
# Method -> argument -> what to write instead. None may still be passed; a value would have had an effect.
REFUSED = {
    "compile": {
        "sample_weight_mode": "pass sample_weight= of the targets' shape to fit.",
        "target_tensors": "pass the targets to fit.",
    },
}
GENERATORS = {"fit_generator": "fit", "evaluate_generator": "evaluate", "predict_generator": "predict"}
GONE_FROM_MODELS = {
    "predict_classes": "model.predict(x).argmax(axis=-1).",
    "predict_proba": "model.predict(x).",
    "reset_states": "call reset_states() of its recurrent layers, or keras.Model.reset_metrics() for its metrics.",
}
GONE_FROM_OPTIMIZERS = {
    "get_gradients": "tf.GradientTape.",
    "get_updates": "optimizer.apply(gradients, variables).",
    "get_weights": "[variable.numpy() for variable in optimizer.variables].",
    "minimize": "tf.GradientTape, and optimizer.apply(gradients, variables).",
    "weights": "optimizer.variables.",
}


def install(keras: Any) -> None:
    """Put them all into Keras."""
    for idiom in IDIOMS:
        idiom(keras)


def _arguments(keras: Any) -> None:
    """Arguments of ``compile``, ``fit``, ``evaluate`` and ``predict`` that are no more."""
    for method, dropped in DROPPED.items():
        _wrap_method(keras.Model, method, dropped, REFUSED.get(method, {}))


def _wrap_method(cls: type, method: str, dropped: dict[str, str], refused: dict[str, str]) -> None:
    original = getattr(cls, method)

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name in dropped.keys() & kwargs.keys():
            del kwargs[name]
            say(f"{method}({name}=)", dropped[name])
        for name in refused.keys() & kwargs.keys():
            if kwargs.pop(name) is not None:
                raise UsageError(f"Keras 3's {method} has no {name}.", fix=refused[name])
        return original(self, *args, **kwargs)

    # Whoever binds arguments to this signature, as the guard over `fit` does, must let the old ones through.
    signature = inspect.signature(original)
    parameters = list(signature.parameters.values())
    if parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        parameters.append(inspect.Parameter("old", inspect.Parameter.VAR_KEYWORD))
    wrapper.__signature__ = signature.replace(parameters=parameters)
    setattr(cls, method, wrapper)


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
        setattr(keras.Model, method.__name__, _said(method, GENERATORS[method.__name__]))


def _said(method: Callable, now: str) -> Callable:
    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        say(f"model.{method.__name__}", f"write model.{now}, which takes generators.")
        return method(self, *args, **kwargs)

    return wrapper


def _optimizer_arguments(keras: Any) -> None:
    """``lr=`` is ``learning_rate=``, and ``decay=`` a schedule: lr / (1 + decay * iterations), as in Keras 2."""
    original = keras.optimizers.Optimizer.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        # A subclass passes its learning rate on as the first argument or by name, and hands through what it knows not.
        rate, decay = kwargs.pop("lr", None), kwargs.pop("decay", None)
        if rate is not None:
            say("optimizer(lr=)", "write learning_rate=.")
        elif args:
            rate = args[0]
        else:
            rate = kwargs.get("learning_rate")
        if decay:
            rate = _decayed(keras, rate, decay)
        if args:
            args = (rate, *args[1:])
        elif rate is not None:
            kwargs["learning_rate"] = rate
        original(self, *args, **kwargs)

    keras.optimizers.Optimizer.__init__ = __init__


def _decayed(keras: Any, rate: Any, decay: float) -> Any:
    if callable(rate):
        raise UsageError("An optimizer has either a schedule or decay=.", fix="delete decay=.")
    say(
        "optimizer(decay=)",
        "write learning_rate=keras.optimizers.schedules.InverseTimeDecay(lr, decay_steps=1, decay_rate=decay). "
        "Its learning rate cannot be set then: with a callback that sets it, delete decay=.",
    )
    return keras.optimizers.schedules.InverseTimeDecay(rate, decay_steps=1, decay_rate=decay)


def _optimizer_attributes(keras: Any) -> None:
    """``optimizer.lr``, which Keras 3 would let one set without any effect, and ``optimizer.variables()``."""

    def get(self: Any) -> Any:
        say("optimizer.lr", "write optimizer.learning_rate.")
        return self.learning_rate

    def set_(self: Any, value: Any) -> None:
        say("optimizer.lr", "write optimizer.learning_rate.")
        self.learning_rate = value

    keras.optimizers.Optimizer.lr = property(get, set_)
    variables = keras.optimizers.Optimizer.variables
    keras.optimizers.Optimizer.variables = property(lambda self: _Callable(variables.fget(self)))


class _Callable(list):
    """A list that may also be called for itself."""

    def __call__(self) -> _Callable:
        say("optimizer.variables()", "write optimizer.variables.")
        return self


def _gone(keras: Any) -> None:
    """Methods that are no more, and say what to write."""
    for cls, names in ((keras.Model, GONE_FROM_MODELS), (keras.optimizers.Optimizer, GONE_FROM_OPTIMIZERS)):
        for name, fix in names.items():
            setattr(cls, name, _Gone(f"{cls.__name__}.{name}", fix))


class _Gone:
    """An attribute that there is no more, on an instance as on the class."""

    def __init__(self, name: str, fix: str):
        self._name, self._fix = name, fix

    def __get__(self, instance: Any, owner: type) -> Any:
        raise GoneError(f"Keras 3 has no {self._name}.", fix=self._fix)


IDIOMS = (_arguments, _generators, _optimizer_arguments, _optimizer_attributes, _gone)
