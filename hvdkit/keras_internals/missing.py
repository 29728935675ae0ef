"""Whether the installed Keras and TensorFlow have what hvdkit uses of them (``required``)."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hvdkit.keras_internals.required import REQUIRED, Required


def missing(required: Iterable[Required] = REQUIRED, replaced: Mapping[str, Any] | None = None) -> list[str]:
    """What is not there or is called in another way, one line for each, with what of hvdkit needs it.

    Args:
        required: what has to be there.
        replaced: owners to look at in the place of those that are installed.

    Example:

    >>> missing([Required("keras.Model", "_no_such_method", "nothing", ())])
    ['keras.Model._no_such_method(): it is not there, and nothing needs it']
    """
    owners: dict[str, Any] = dict(replaced or {})
    lines = []
    for one in required:
        if one.owner not in owners:
            owners[one.owner] = _resolve_owner(one.owner)
        owner = owners[one.owner]
        problem = f"{owner}" if isinstance(owner, _Unavailable) else _problem(one, owner)
        if problem:
            lines.append(f"{one}: {problem}, and {one.needed_for} needs it")
    return lines


class _Unavailable(Exception):
    """An owner is not there at all, with the reason."""


def _resolve_owner(owner: str) -> Any:
    """A class, a module, or an object of a kind."""
    try:
        return SAMPLES[owner]() if owner in SAMPLES else _imported(owner)
    except Exception as error:  # noqa: BLE001  whatever another version raises is what is reported
        return _Unavailable(f"there is no {owner} ({type(error).__name__}: {error})")


def _imported(path: str) -> Any:
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(_imported(module) if module else importlib.import_module(name), name)


def _problem(required: Required, owner: Any) -> str | None:
    if not hasattr(owner, required.name):
        return "it is not there"
    value = getattr(owner, required.name)
    if required.parameters is None:
        return None
    if not callable(value):
        return f"it cannot be called, being of the type {type(value).__name__}"
    taken = list(inspect.signature(value).parameters.values())
    if inspect.isclass(owner):  # called on an object of it
        taken = taken[1:]
    first, others = taken[: len(required.parameters)], taken[len(required.parameters) :]
    needed = [p for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = {"call": needed, "override": others, "wrap": []}[required.use]
    if tuple(p.name for p in first) != required.parameters or unknown:
        return f"it takes ({', '.join(map(str, taken))}) now"
    return None


def _keras() -> Any:
    """Imported late: the doctor is to say why it does not load."""
    return importlib.import_module("keras")


def _new(callback: str) -> Any:
    return getattr(_keras().callbacks, callback)()


def _optimizer() -> Any:
    keras = _keras()
    optimizer = keras.optimizers.SGD(momentum=0.9, use_ema=True, gradient_accumulation_steps=2)
    optimizer.build([keras.Variable([1.0])])
    return optimizer


def _rmsprop() -> Any:
    keras = _keras()
    optimizer = keras.optimizers.RMSprop(momentum=0.9)
    optimizer.build([keras.Variable([1.0])])
    return optimizer


def _model() -> Any:
    keras = _keras()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def _functional() -> Any:
    keras = _keras()
    return keras.Model(x := keras.Input((1,)), keras.layers.Dense(1)(x))


def _epoch() -> Any:
    import tensorflow as tf
    from keras.src.backend.tensorflow.trainer import TFEpochIterator

    data = tf.data.Dataset.from_tensors(([[1.0]], [[1.0]]))
    return TFEpochIterator(x=data, distribute_strategy=tf.distribute.get_strategy())


def _variable() -> Any:
    import tensorflow as tf

    return tf.Variable(1.0)


def _mirrored_part() -> Any:
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        return tf.Variable(1.0).values[0].handle


def _extended() -> Any:
    import tensorflow as tf

    return tf.distribute.OneDeviceStrategy("/cpu:0").extended


def _graph() -> Any:
    import tensorflow as tf

    return tf.function(lambda: tf.constant(1.0)).get_concrete_function().graph


#: The kinds of objects in the table, and how one is made.
SAMPLES: dict[str, Callable[[], Any]] = {
    "a built optimizer": _optimizer,
    "a built RMSprop": _rmsprop,
    "a LossScaleOptimizer": lambda: _keras().optimizers.LossScaleOptimizer(_keras().optimizers.SGD()),
    "a compiled model": _model,
    "a Functional model": _functional,
    "a built layer": lambda: _model().layers[0],
    "a call of a layer": lambda: _model().layers[0]._inbound_nodes[0],
    "a list of callbacks": lambda: _keras().callbacks.CallbackList([], model=_model()),
    "a callback": functools.partial(_new, "Callback"),
    "a SwapEMAWeights": functools.partial(_new, "SwapEMAWeights"),
    "an epoch": _epoch,
    "a variable": _variable,
    "the handle of a mirrored variable's part": _mirrored_part,
    "a strategy's extended": _extended,
    "the graph of a tf.function": _graph,
}
