"""Arguments that Keras 2 took: what each becomes in Keras 3.

Three tables of rules: what classes are made with (``CONSTRUCTORS``), what methods are called with (``METHODS``), and
functions of modules (``FUNCTIONS``). A rule removes an argument from those that were passed, and puts in its equivalent
in Keras 3, or raises with what to write instead.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hvdkit.compat import keras2_special
from hvdkit.compat.deprecations import warn_once
from hvdkit.errors import UsageError

Rule = Callable[[Any, dict[str, Any], str, str], None]
"""Called with the object, the named arguments, the argument's name, and whose argument it is."""


def dropped(now: str = "delete it: it has no effect any more.") -> Rule:
    """An argument without any effect."""

    def rule(_: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
        del arguments[name]
        warn_once(f"{whose}({name}=)", now)

    return rule


def only(*values: Any, now: str) -> Rule:
    """An argument of which only values without an effect can still be passed."""

    def rule(_: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
        value = arguments.pop(name)
        if not (value is None or (isinstance(value, bool | int | str) and value in values)):
            raise UsageError(f"Keras 3's {whose} has no {name}. Received: {name}={value!r}.", fix=now)
        if value is not None:
            warn_once(f"{whose}({name}=)", "delete it: this is how it is.")

    return rule


def renamed(new: str) -> Rule:
    """An argument under a new name."""

    def rule(_: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
        arguments[new] = arguments.pop(name)
        warn_once(f"{whose}({name}=)", f"write {new}=.")

    return rule


_WORKERS = dropped("delete it: Keras 3 takes it in keras.utils.PyDataset(workers=..., use_multiprocessing=...).")
_QUEUE: dict[str, Rule] = dict.fromkeys(("workers", "use_multiprocessing", "max_queue_size"), _WORKERS)
_BATCH_NORM = "write it as a layer of your own; hvd.SyncBatchNormalization takes all ranks' samples for one batch."
_TIME_MAJOR = "put keras.layers.Permute((2, 1, 3)) or keras.ops.transpose around the layer: its batch is axis 0."
_MEASURED = {"reset_metrics": only(True, now="call metric.update_state yourself: each batch has metrics of its own.")}
_LEGACY_FORMAT = {"use_legacy_format": only(False, now="there is one format: delete it.")}
CONSTRUCTORS: dict[str, dict[str, Rule]] = {
    "layers.Layer": {
        "dynamic": only(False, now="delete it, and compile the model with run_eagerly=True."),
        "batch_input_shape": keras2_special.batch_input_shape,
        "weights": keras2_special.weights,
    },
    "layers.BatchNormalization": {
        "fused": dropped("delete it: TensorFlow chooses the kernel."),
        "virtual_batch_size": only(now=_BATCH_NORM),
        "renorm": only(False, now=_BATCH_NORM),
        "renorm_clipping": only(now=_BATCH_NORM),
        "renorm_momentum": dropped(),
        "adjustment": only(now=_BATCH_NORM),
    },
    "layers.RNN": {"time_major": only(False, now=_TIME_MAJOR)},
    "layers.Embedding": {"sparse": dropped("delete it: its gradients are sparse.")},
    "layers.InputLayer": {
        "input_shape": renamed("shape"),
        "type_spec": only(now="say shape=, dtype=, sparse= or ragged=."),
    },
    "callbacks.ModelCheckpoint": {
        "period": keras2_special.period,
        "options": only(now="delete it: files are written by Keras itself."),
        "load_weights_on_restart": only(False, now="model.load_weights(path) before fit."),
    },
    "callbacks.TensorBoard": {
        "write_grads": dropped(),
        "batch_size": dropped(),
        "embeddings_layer_names": dropped(),
        "embeddings_data": dropped(),
    },
    "callbacks.BackupAndRestore": {"save_before_preemption": dropped("hvd.callbacks.CheckpointCallback does that.")},
    "callbacks.ProgbarLogger": {"count_mode": dropped(), "stateful_metrics": dropped()},
    "callbacks.ReduceLROnPlateau": {"epsilon": renamed("min_delta")},
    "losses.Loss": {"reduction": keras2_special.reduction},
    "mixed_precision.LossScaleOptimizer": {
        "loss_scale": only("dynamic", now="the optimizer's own loss_scale_factor=, without a LossScaleOptimizer."),
    },
}
_APPLY: dict[str, Rule] = {
    "experimental_aggregate_gradients": keras2_special.aggregate,
    "skip_gradients_aggregation": keras2_special.aggregate,
    "name": dropped(),
}
_ADD_WEIGHT: dict[str, Rule] = {
    "use_resource": dropped(),
    "synchronization": dropped(),
    "partitioner": only(now="delete it: a variable is in one piece."),
    "collections": dropped(),
    "aggregation": keras2_special.aggregation,
}
METHODS: dict[str, dict[str, dict[str, Rule]]] = {
    "Model": {
        "compile": {
            "experimental_run_tf_function": dropped(),
            "cloning": dropped(),
            "sample_weight_mode": dropped("delete it: pass sample_weight= of the targets' shape to fit."),
            "distribute": only(now="delete it: horovodrun starts the ranks."),
            "target_tensors": only(now="pass the targets to fit."),
            "pss_evaluation_shards": only(0, now="delete it: there are no parameter servers."),
        },
        "fit": _QUEUE,
        "evaluate": _QUEUE,
        "predict": _QUEUE,
        "train_on_batch": _MEASURED,
        "test_on_batch": _MEASURED,
        "save": {"options": only(now="delete it.")},
        "save_weights": {
            "options": only(now="delete it."),
            "save_format": only("h5", "keras", now="the path's ending says it: x.weights.h5."),
        },
        "load_weights": {"options": only(now="delete it.")},
    },
    "optimizers.Optimizer": {"apply_gradients": _APPLY},
    "layers.Layer": {"add_weight": _ADD_WEIGHT},
    "metrics.Metric": {"add_weight": {**_ADD_WEIGHT, "aggregation": dropped()}},
}
FUNCTIONS: dict[str, dict[str, dict[str, Rule]]] = {
    "keras": {"Input": {"type_spec": only(now="say shape=, dtype=, sparse= or ragged=.")}},
    "keras.activations": {"relu": {"alpha": renamed("negative_slope")}},
    "keras.utils": {
        "to_categorical": {"y": renamed("x")},
        "load_img": {"grayscale": keras2_special.grayscale},
        "model_to_dot": {"layer_range": only(now="delete it, or make a model of these layers.")},
        "plot_model": {"layer_range": only(now="delete it, or make a model of these layers.")},
    },
    "keras.preprocessing.image": {"load_img": {"grayscale": keras2_special.grayscale}},
    **{
        f"keras.{module}": {"serialize": _LEGACY_FORMAT, "deserialize": _LEGACY_FORMAT}
        for module in ("constraints", "initializers", "layers", "losses", "metrics", "optimizers", "regularizers")
    },
}
# Whose positional arguments stood in another order -> their names by then, and whether the first one is of then.
POSITIONS: dict[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    "layers.Layer.add_weight": (
        ("name", "shape", "dtype", "initializer", "regularizer", "trainable", "constraint"),
        lambda first: isinstance(first, str),
    ),
    "metrics.Metric.add_weight": (
        ("name", "shape", "aggregation", "synchronization", "initializer", "dtype"),
        lambda first: isinstance(first, str),
    ),
    "metrics.Metric.__init__": (("name", "dtype"), keras2_special.no_dtype),
    "losses.Loss.__init__": (("reduction", "name"), keras2_special.is_reduction),
}


# Rules for values that no longer exist, of arguments that still do.
_OF_VALUES = (keras2_special.reduction, keras2_special.aggregation)


def patch_arguments(keras: Any) -> None:
    """Put them into Keras' classes."""
    for path, rules in CONSTRUCTORS.items():
        _wrap(keras, path, "__init__", rules)
    _wrap(keras, "metrics.Metric", "__init__", {})
    for path, methods in METHODS.items():
        for method, rules in methods.items():
            _wrap(keras, path, method, rules)


def patch_function_arguments(canonical: str, module: ModuleType) -> None:
    """Put them into the functions of one module; ``canonical`` is its name in ``keras``."""
    for name, rules in FUNCTIONS.get(canonical, {}).items():
        original = vars(module).get(name)
        if original is not None and not hasattr(original, "keras2"):
            wrapper = _with_rules(original, f"{canonical.removeprefix('keras.')}.{name}", rules, bound=False)
            wrapper.keras2 = True
            setattr(module, name, wrapper)


def has_changed_arguments(canonical: str) -> bool:
    """Whether a module has such functions."""
    return canonical in FUNCTIONS


def _wrap(keras: Any, path: str, method: str, rules: dict[str, Rule]) -> None:
    cls = functools.reduce(getattr, path.split("."), keras)
    # The class that owns the method: on another, Keras would take the method for one that the user has overridden.
    owner = next(owner for owner in cls.__mro__ if method in vars(owner))
    whose = path.rpartition(".")[2] if method == "__init__" else method
    setattr(owner, method, _with_rules(vars(owner)[method], whose, rules, POSITIONS.get(f"{path}.{method}")))


def _with_rules(
    original: Callable, whose: str, rules: dict[str, Rule], positions: Any = None, bound: bool = True
) -> Callable:
    signature = inspect.signature(original)
    # What the Keras that is installed takes itself (again) is left to it.
    old = {name for name, rule in rules.items() if rule in _OF_VALUES or name not in signature.parameters}

    @functools.wraps(original)
    def wrapper(*args: Any, **arguments: Any) -> Any:
        instance, rest = (args[:1], args[1:]) if bound else ((), args)
        if positions is not None and rest and positions[1](rest[0]):
            arguments.update(zip(positions[0], rest, strict=False))
            rest = ()
            warn_once(f"{whose}({positions[0][0]}, ...)", "name the arguments: their order is another one in Keras 3.")
        for name in old & arguments.keys():
            rules[name](instance[0] if instance else None, arguments, name, whose)
        return original(*instance, *rest, **arguments)

    # Code that binds arguments to this signature, as hvdkit's `fit` does, must let the old ones through.
    parameters = list(signature.parameters.values())
    if parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        parameters.append(inspect.Parameter("old", inspect.Parameter.VAR_KEYWORD))
    wrapper.__signature__ = signature.replace(parameters=parameters)
    return wrapper
