"""Names that Keras 2 and TensorFlow 1 had: where each is found now, or what to write instead.

Four tables. ``MOVED`` are modules by their old path, ``KEPT`` functions that are still here under their old name,
``GONE`` functions that say what to write when they are called, and ``TENSORFLOW_1`` what is no more in ``tf``. A name
that only ``tf.keras`` has (``K.mean``) is found in ``keras`` as well.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from hvdkit.compat.notices import GoneError, say
from hvdkit.errors import UsageError

_LAYERS = "advanced_activations convolutional core embeddings experimental experimental.preprocessing merge noise"
_LAYERS += " normalization pooling recurrent wrappers"
_UTILS = "data_utils generic_utils np_utils vis_utils"
MOVED = {
    **{f"keras.layers.{old}": "keras.layers" for old in _LAYERS.split()},
    **{f"keras.utils.{old}": "keras.utils" for old in _UTILS.split()},
    "keras.backend.tensorflow_backend": "keras.backend",
    "keras.engine": "keras.layers",
    "keras.engine.topology": "keras.layers",
    "keras.engine.training": "keras.models",
    "keras.mixed_precision.experimental": "keras.mixed_precision",
    "keras.optimizers.experimental": "keras.optimizers",
    "keras.optimizers.legacy": "keras.optimizers",
}
_PINNED = "delete it: hvd.init() gives this rank its GPU and lets its memory grow. There are no sessions any more."
_PHASE = "pass training=True or training=False to the call of the model or layer."
_ARRAY = "write float(x) or x.numpy()."
_ASSIGN = "write x.assign(value)."
GONE = {
    "keras.backend": {
        "set_session": _PINNED,
        "get_session": _PINNED,
        "learning_phase": _PHASE,
        "set_learning_phase": _PHASE,
        "function": "keras.Model(inputs, outputs), and call it.",
        "placeholder": "keras.Input(shape).",
        "manual_variable_initialization": "delete it: variables have their values from the beginning.",
    },
    "keras.utils": {"multi_gpu_model": "delete it: each rank has one GPU; start as many ranks as there are GPUs."},
}
TENSORFLOW_1 = {
    "ConfigProto": _PINNED,
    "GPUOptions": _PINNED,
    "Session": _PINNED,
    "InteractiveSession": _PINNED,
    "enable_eager_execution": "delete it: TensorFlow 2 is eager.",
    "get_default_graph": "delete it: there is no graph outside tf.function.",
    "global_variables_initializer": "delete it: variables have their values from the beginning.",
    "placeholder": "keras.Input(shape), or a function's argument.",
    "set_random_seed": "hvd.set_seed(seed), or tf.random.set_seed(seed).",
}
# Modules in whose tf.keras version there are names that keras' own lacks.
_ONLY_IN_TF_KERAS = {"keras.backend", "keras.layers", "keras.preprocessing.image"}


def _get_value(x: Any) -> Any:
    keras = importlib.import_module("keras")
    return keras.ops.convert_to_numpy(x)[()]


def _set_value(x: Any, value: Any) -> None:
    if not hasattr(x, "assign"):
        raise UsageError(
            f"K.set_value needs a variable. Received: {x!r}.",
            fix="a learning rate that follows a schedule (or decay=) is not a variable: give the optimizer a number.",
        )
    x.assign(value)


KEPT = {
    "keras.backend": {
        "get_value": (_get_value, _ARRAY),
        "set_value": (_set_value, _ASSIGN),
        "batch_get_value": (lambda xs: [_get_value(x) for x in xs], _ARRAY),
        "batch_set_value": (lambda pairs: [_set_value(x, value) for x, value in pairs] and None, _ASSIGN),
    }
}
_CHANGED = {"tensorflow", *KEPT, *GONE, *_ONLY_IN_TF_KERAS, *(old.rpartition(".")[0] for old in MOVED)}


def changes(name: str) -> bool:
    """Whether a module is one that gets old names."""
    return _canonical(name) in _CHANGED


def moved(name: str) -> ModuleType | None:
    """The module that stands under an old path, or None."""
    old = _canonical(name)
    home = MOVED.get(old)
    if home is None:
        return None
    module = ModuleType(name, f"{old}, which is {home} now.")

    def lookup(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        value = getattr(importlib.import_module(home), attribute)
        say(old, f"it is {home} now.")
        return value

    module.__getattr__ = lookup
    return module


def install(name: str, module: ModuleType) -> None:
    """Let a module answer to the old names that it lacks."""
    canonical = _canonical(name)
    for kept in KEPT.get(canonical, ()):
        vars(module).pop(kept, None)
    module.__getattr__ = lambda attribute: _lookup(name, canonical, attribute)


def _lookup(name: str, canonical: str, attribute: str) -> Any:
    old = f"{canonical}.{attribute}"
    if attribute in KEPT.get(canonical, ()):
        value, fix = KEPT[canonical][attribute]
        say(old, fix)
        return value
    if attribute in GONE.get(canonical, ()):
        return _gone(old, GONE[canonical][attribute])
    if canonical == "tensorflow" and attribute in TENSORFLOW_1:
        raise GoneError(f"tf.{attribute} is TensorFlow 1's.", fix=TENSORFLOW_1[attribute])
    if old in MOVED:
        return importlib.import_module(f"{name}.{attribute}")
    if canonical in _ONLY_IN_TF_KERAS and name == canonical and not attribute.startswith("__"):
        theirs = vars(importlib.import_module(f"keras._tf_keras.{canonical}"))
        if attribute in theirs:
            say(old, _instead(canonical, attribute))
            return theirs[attribute]
    raise AttributeError(f"module {name!r} has no attribute {attribute!r}")


def _gone(old: str, fix: str) -> Any:
    def gone(*_args: Any, **_kwargs: Any) -> None:
        raise UsageError(f"Keras 3 has no {old}.", fix=fix)

    return gone


def _instead(canonical: str, attribute: str) -> str:
    keras = importlib.import_module("keras")
    if canonical == "keras.backend" and hasattr(keras.ops, attribute):
        return f"write keras.ops.{attribute}."
    return f"Keras 3 has it for old scripts only, as tf.{canonical}.{attribute}."


def _canonical(name: str) -> str:
    """The same module's name in ``keras``: tf.keras' modules go by two more."""
    for prefix in ("keras._tf_keras.keras", "tensorflow.keras"):
        if name.startswith(f"{prefix}."):
            return "keras" + name[len(prefix) :]
    return name
