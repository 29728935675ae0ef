"""Names of Keras 2: where each one is now, or what to write instead.

Three tables. ``MOVED`` are modules by their old path, ``KEPT`` functions that are still here under their old name, and
``GONE`` what says what to write when it is called. A name that only ``tf.keras`` has (``K.mean``) is found in ``keras``
as well, and one that only ``keras`` has in ``tf.keras``. What is no more in ``tf`` is in ``tensorflow_1``.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from hvdkit.compat import keras2_arguments, keras2_behaviour, tensorflow_1
from hvdkit.compat.deprecations import warn_once
from hvdkit.errors import UsageError
from hvdkit.keras_internals import keras2

_LAYERS = "advanced_activations convolutional core embeddings experimental experimental.preprocessing merge noise"
_LAYERS += " normalization pooling recurrent wrappers"
_UTILS = "data_utils generic_utils np_utils vis_utils"
MOVED = {
    **{f"keras.layers.{old}": "keras.layers" for old in _LAYERS.split()},
    **{f"keras.utils.{old}": "keras.utils" for old in _UTILS.split()},
    "keras.backend.tensorflow_backend": "keras.backend",
    "keras.callbacks.experimental": "keras.callbacks",
    "keras.engine.base_layer": "keras.layers",
    "keras.engine.input_layer": "keras.layers",
    "keras.engine.sequential": "keras.models",
    "keras.engine": "keras.layers",
    "keras.engine.topology": "keras.layers",
    "keras.engine.training": "keras.models",
    "keras.experimental": "keras.optimizers.schedules",
    "keras.metrics.experimental": "keras.metrics",
    "keras.mixed_precision.experimental": "keras.mixed_precision",
    "keras.optimizers.experimental": "keras.optimizers",
    "keras.optimizers.legacy": "keras.optimizers",
    "keras.preprocessing.text": keras2.tf_keras_module("keras.preprocessing.text"),
    "keras.saving.hdf5_format": "keras.saving",
    "keras.utils.legacy": "keras.saving",
}
_PHASE = "pass training=True or training=False to the call of the model or layer."
_ARRAY = "write float(x) or x.numpy()."
_ASSIGN = "write x.assign(value)."
_QUEUE = "keras.utils.PyDataset(workers=..., use_multiprocessing=...)."
_LOCAL = "keras.layers.Conv1D or Conv2D, or a layer of your own; Keras 3 has no convolution with unshared weights."
_CELL = "a keras.layers.Layer with the attributes state_size and output_size and the method get_initial_state."
GONE = {
    "keras": {
        "dtensor": "keras.distribution.",
        "estimator": "model.fit; hvd.data.shard shares out the data.",
    },
    "keras.backend": {
        "get_session": tensorflow_1.PINNED,
        "learning_phase": _PHASE,
        "learning_phase_scope": _PHASE,
        "set_learning_phase": _PHASE,
        "in_train_phase": _PHASE,
        "in_test_phase": _PHASE,
        "function": "keras.Model(inputs, outputs), and call it.",
        "placeholder": "keras.Input(shape).",
        "manual_variable_initialization": "delete it: variables have their values from the beginning.",
        "local_conv1d": _LOCAL,
        "local_conv2d": _LOCAL,
        "normalize_batch_in_training": "keras.ops.moments, and keras.ops.batch_normalization.",
        "print_tensor": "tf.print(x).",
        "reset_uids": "keras.backend.clear_session().",
    },
    "keras.callbacks": {"BaseLogger": "delete it: metrics are means over the epoch."},
    "keras.constraints": {"RadialConstraint": "a keras.constraints.Constraint of your own."},
    "keras.layers": {
        "AbstractRNNCell": _CELL,
        "DenseFeatures": "keras.utils.FeatureSpace.",
        "LocallyConnected1D": _LOCAL,
        "LocallyConnected2D": _LOCAL,
        "CuDNNGRU": "keras.layers.GRU, which uses cuDNN if there is a GPU.",
        "CuDNNLSTM": "keras.layers.LSTM, which uses cuDNN if there is a GPU.",
        "RandomFourierFeatures": "a keras.layers.Layer of your own.",
        "SyncBatchNormalization": "hvd.SyncBatchNormalization.",
    },
    "keras.metrics": {
        "MeanRelativeError": "a keras.metrics.Metric of your own.",
        "MeanTensor": "a keras.metrics.Metric of your own.",
    },
    "keras.models": {
        "model_from_config": "keras.Model.from_config(config), or keras.Sequential.from_config(config).",
        "model_from_yaml": "keras.models.model_from_json.",
    },
    "keras.optimizers.schedules": {
        "LinearModel": "a keras.Model with a Dense layer.",
        "SequenceFeatures": "keras.utils.FeatureSpace.",
        "WideDeepModel": "a keras.Model of both.",
    },
    "keras.utils": {
        "DatasetCreator": "hvd.data.shard.",
        "GeneratorEnqueuer": _QUEUE,
        "OrderedEnqueuer": _QUEUE,
        "SequenceEnqueuer": _QUEUE,
        "SidecarEvaluator": "validation_data= of fit.",
        "multi_gpu_model": "delete it: each rank has one GPU; start as many ranks as there are GPUs.",
        "warmstart_embedding_matrix": "layer.set_weights.",
    },
}
# Modules in whose tf.keras version there are names that keras' own lacks, or the other way round.
_TWINS = {
    "keras.backend", "keras.layers", "keras.losses", "keras.metrics", "keras.preprocessing.image",
    "keras.preprocessing.sequence",
}  # fmt: skip


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


def _set_policy(policy: Any) -> None:
    importlib.import_module("keras").mixed_precision.set_dtype_policy(policy)


def _global_policy() -> Any:
    return importlib.import_module("keras").mixed_precision.dtype_policy()


KEPT = {
    "keras.backend": {
        "get_value": (_get_value, _ARRAY),
        "set_value": (_set_value, _ASSIGN),
        "set_session": (tensorflow_1.no_effect, tensorflow_1.PINNED),
        "batch_get_value": (lambda xs: [_get_value(x) for x in xs], _ARRAY),
        "batch_set_value": (lambda pairs: [_set_value(x, value) for x, value in pairs] and None, _ASSIGN),
    },
    "keras.mixed_precision": {
        "set_policy": (_set_policy, "write keras.mixed_precision.set_global_policy."),
        "global_policy": (_global_policy, "write keras.mixed_precision.dtype_policy()."),
    },
}
# Functions of K whose namesake in `keras.ops` does something else, or takes its arguments otherwise.
_OPS = {
    "argmax": "argmax(x, axis=-1)",
    "argmin": "argmin(x, axis=-1)",
    "batch_normalization": "batch_normalization(x, mean, variance, axis, offset=beta, scale=gamma)",
    "concatenate": "concatenate(tensors, axis=-1)",
    "cumprod": "cumprod(x, axis=0)",
    "cumsum": "cumsum(x, axis=0)",
    "expand_dims": "expand_dims(x, axis=-1)",
    "hard_sigmoid": "clip(0.2 * x + 0.5, 0, 1)",
    "in_top_k": "in_top_k(targets, predictions, k)",
    "repeat": "repeat(keras.ops.expand_dims(x, 1), n, axis=1)",
    "switch": "where(condition, x, y), or keras.ops.cond",
}
_CHANGED = {"tensorflow", *KEPT, *GONE, *_TWINS, *(old.rpartition(".")[0] for old in MOVED)}


def has_renames(name: str) -> bool:
    """Whether a module gets names or arguments of Keras 2."""
    canonical = _canonical(name)
    return (
        canonical in _CHANGED
        or keras2_arguments.has_changed_arguments(canonical)
        or keras2_behaviour.has_changed_behaviour(canonical)
    )


def moved_module(name: str) -> ModuleType | None:
    """A module for an old path, which looks its names up where they are now; None if the path is not an old one."""
    old = _canonical(name)
    home = MOVED.get(old)
    if home is None or home == name:
        return None
    module = ModuleType(name, f"{old}, which is {home} now.")

    def lookup(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        value = getattr(importlib.import_module(home), attribute)
        warn_once(old, f"it is {home} now.")
        return value

    module.__getattr__ = lookup
    return module


def install_renames(name: str, module: ModuleType) -> None:
    """Let a module answer to the old names that it lacks."""
    canonical = _canonical(name)
    keras2_arguments.patch_function_arguments(canonical, module)
    keras2_behaviour.patch_function_behaviour(canonical, module)
    if canonical not in _CHANGED:
        return
    for kept in KEPT.get(canonical, ()):
        vars(module).pop(kept, None)
    module.__getattr__ = lambda attribute: _lookup(name, canonical, attribute)


def _lookup(name: str, canonical: str, attribute: str) -> Any:
    old = f"{canonical}.{attribute}"
    if attribute in KEPT.get(canonical, ()):
        value, fix = KEPT[canonical][attribute]
        warn_once(old, fix)
        return value
    if attribute in GONE.get(canonical, ()):
        return _gone(old, GONE[canonical][attribute])
    if canonical == "tensorflow":
        replacement = tensorflow_1.lookup_tensorflow_1(attribute)
        if replacement is not None:
            return replacement
    if old in MOVED:
        return importlib.import_module(f"{name}.{attribute}")
    if canonical in _TWINS and not attribute.startswith("__"):
        twin = canonical if name != canonical else keras2.tf_keras_module(canonical)
        attributes = vars(importlib.import_module(twin))
        if attribute in attributes:
            if name == canonical:
                warn_once(old, _instead(canonical, attribute))
            return attributes[attribute]
    raise AttributeError(f"module {name!r} has no attribute {attribute!r}")


def _gone(old: str, fix: str) -> type:
    """A function that may not be called, or a class of which there are no objects and no other classes."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise UsageError(f"Keras 3 has no {old}.", fix=fix)

    return type(old.rpartition(".")[2], (), {"__new__": refuse, "__init_subclass__": refuse})


def _instead(canonical: str, attribute: str) -> str:
    keras = importlib.import_module("keras")
    if canonical == "keras.backend" and hasattr(keras.ops, attribute):
        return f"write keras.ops.{_OPS.get(attribute, attribute)}."
    twin = getattr(importlib.import_module(keras2.tf_keras_module(canonical)), attribute)
    name = getattr(twin, "__name__", attribute)
    if name != attribute and hasattr(importlib.import_module(canonical), name):
        return f"write {canonical}.{name}."
    return f"Keras 3 has it for old scripts only, as tf.{canonical}.{attribute}."


def _canonical(name: str) -> str:
    """The same module's name in ``keras``: tf.keras' modules go by two more."""
    for prefix in (keras2.TF_KERAS, "tensorflow.keras"):
        if name.startswith(f"{prefix}."):
            return "keras" + name[len(prefix) :]
    return name
