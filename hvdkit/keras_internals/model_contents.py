"""What a Keras model trains with: its optimizers, its parameters, and the state that ranks must share."""

from __future__ import annotations

import collections
import functools
import hashlib
import json
import sys
import types
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.keras_internals import attributes
from hvdkit.keras_internals.layers import own_trainable_variables
from hvdkit.keras_internals.optimizers import slots, unwrap


def optimizers_of(model: keras.Model, things: list | None = None) -> list:
    """The optimizers that make steps: ``model.optimizer``, those the model holds (a GAN's), however it holds them, and
    for a ``MultiOptimizer`` those inside it. ``things`` is what ``reachable_objects`` returned, if that is known."""
    optimizers = [getattr(model, "optimizer", None), *(reachable_objects(model) if things is None else things)]
    optimizers = [o for o in optimizers if isinstance(o, keras.optimizers.Optimizer)]
    optimizers = [inner for o in optimizers for inner in getattr(o, "optimizers", [o])]
    inside = {id(unwrap(o)) for o in optimizers if isinstance(o, keras.optimizers.LossScaleOptimizer)}
    return [o for o in {id(o): o for o in optimizers}.values() if id(o) not in inside]


def layers_of(model: keras.Model) -> list:
    """The model and all layers it holds, those that Keras does not track too."""
    return [layer for layer in reachable_objects(model) if isinstance(layer, keras.layers.Layer)]


def weights_of(model: keras.Model, things: list | None = None) -> list:
    """A model's weights, each once: Keras' own list, then those of layers and the TensorFlow variables that the model
    holds and Keras does not track. ``things`` is what ``reachable_objects`` returned, if that is known."""
    things = reachable_objects(model) if things is None else things
    layers = [layer for layer in things if isinstance(layer, keras.layers.Layer)]
    weights = [*model.weights, *(v for layer in layers for v in layer.weights)]
    weights = list({id(v): v for v in weights}.values())
    known = {id(backend_variable(v)) for layer in layers for v in layer.variables}
    raw = [v for v in things if isinstance(v, tf.Variable) and id(v) not in known]
    return [*weights, *raw]


def reachable_objects(model: keras.Model) -> list:
    """The layers, optimizers, seed generators and TensorFlow variables that a model reaches, itself first.

    Through its attributes and those of its layers, through lists and dictionaries, modules of TensorFlow, and objects
    of the user's own classes. Not through functions: what only a closure holds is not reached.
    """
    objects, queue, seen = [], collections.deque([(model, getattr(model, "name", ""))]), {id(model)}
    while queue:
        thing, path = queue.popleft()
        if isinstance(thing, _REPORTED_KINDS):
            objects.append(thing)
        if isinstance(thing, tf.Variable):
            attributes.set_path(thing, path)
        for name, part in _parts(thing):
            if id(part) not in seen and not isinstance(part, _LEAVES):
                seen.add(id(part))
                queue.append((part, f"{path}.{name}"))
    return objects


_REPORTED_KINDS = (keras.layers.Layer, keras.optimizers.Optimizer, keras.random.SeedGenerator, tf.Variable)
_CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque)
_MOST_PARTS = 10_000
_LEAVES = (str, bytes, bool, int, float, complex, type, type(None), np.ndarray, np.generic, tf.Tensor)


def _parts(thing: Any) -> Iterable[tuple[Any, Any]]:
    """What a thing holds, where that may be a layer, an optimizer or a variable, by its names."""
    if isinstance(thing, _CONTAINERS):
        if len(thing) > _MOST_PARTS:  # data: no model has as many layers
            return ()
        if isinstance(thing, set | frozenset):  # in an order that is the same on every rank and in every run
            thing = sorted(thing, key=lambda part: str(getattr(part, "name", "")))
        return list(thing.items() if isinstance(thing, dict) else enumerate(thing))
    if isinstance(thing, keras.Variable | tf.Variable | keras.optimizers.Optimizer | keras.metrics.Metric):
        return ()
    if isinstance(thing, keras.layers.Layer | tf.Module | types.SimpleNamespace) or _is_of_the_user(thing):
        # What TensorFlow notes beside the attributes ("_self_...") holds the same once more.
        return [(name, value) for name, value in vars(thing).items() if not name.startswith("_self_")]
    return ()


def _is_of_the_user(thing: Any) -> bool:
    """Whether an object is of a class that no library has made, and has attributes."""
    return hasattr(thing, "__dict__") and _is_a_users_module(type(thing).__module__)


@functools.cache
def _is_a_users_module(name: str) -> bool:
    top = name.partition(".")[0]
    if top != "__main__" and (top in sys.stdlib_module_names or top in ("keras", "tensorflow", "numpy", "hvdkit")):
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def reduction_state_of(optimizer: Any) -> Any:
    """The ``ReductionState`` of an optimizer, or of the one inside a ``LossScaleOptimizer``; None without one."""
    return attributes.own_reduction_state(unwrap(optimizer))


def optimizer_state_of(model: keras.Model) -> list:
    """The variables of a model's optimizers, each once: iterations, learning rate, slots, loss scale."""
    variables = [v for optimizer in optimizers_of(model) for v in optimizer.variables]
    return list({id(v): v for v in variables}.values())


def backend_variable(variable: Any) -> Any:
    """The TensorFlow variable that holds the value: the identity of a Keras variable, which may be wrapped anew."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def slots_of(model: keras.Model, variables: list, optimizers: list | None = None) -> list:
    """What the model's optimizers keep for these variables: momenta, accumulated gradients, moving averages.

    ``optimizers`` are those of the model, where they are known.
    """
    wanted = {id(backend_variable(v)) for v in variables}
    pairs = [pair for o in (optimizers_of(model) if optimizers is None else optimizers) for pair in slots(o)]
    return [slot for variable, slot in pairs if id(backend_variable(variable)) in wanted]


def mark_local(variable: Any) -> None:
    """Mark a variable as each rank's own, so that nothing asks for it to be equal on all ranks."""
    attributes.mark_local(backend_variable(variable))


def is_local(variable: Any) -> bool:
    """Whether a variable was marked as each rank's own."""
    return attributes.is_local(backend_variable(variable))


def parameters_of(model: Any, things: list | None = None) -> list:
    """The weights that ranks must have in common: trainable ones, frozen ones too, but no batch statistics and none
    that is kept local. Layers and TensorFlow variables that Keras does not track are among them. ``things`` is what
    ``reachable_objects`` returned, if that is known."""
    things = reachable_objects(model) if things is None else things
    layers = [layer for layer in things if isinstance(layer, keras.layers.Layer)]
    own = [v for layer in layers for v in own_trainable_variables(layer)]
    raw = [v for v in weights_of(model, things) if isinstance(v, tf.Variable) and v.trainable]
    weights = list({id(v): v for v in [*model.trainable_variables, *own, *raw]}.values())
    return [v for v in weights if not is_local(v)]


def build_optimizer(model: keras.Model) -> None:
    """Make the slots of a built model's optimizer now instead of in the first step."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built and model.built and model.trainable_variables:
        with model.distribute_strategy.scope():  # slots are mirrored where the weights are
            optimizer.build(model.trainable_variables)


def refresh_normalization(model: keras.Model) -> None:
    """Let layers that compute with constants made from their weights (``Normalization``) make them anew."""
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def preprocessing_state(model: keras.Model) -> list[str]:
    """A digest of what each layer learnt from data by ``adapt``: vocabularies, boundaries, means and variances."""
    digests = []
    for layer in layers_of(model):
        if hasattr(layer, "get_vocabulary"):
            learnt: Any = [str(word) for word in layer.get_vocabulary()]
        elif isinstance(layer, keras.layers.Discretization):
            learnt = np.asarray(layer.bin_boundaries if layer.bin_boundaries is not None else []).tolist()
        elif isinstance(layer, keras.layers.Normalization) and layer.mean is not None:
            learnt = [np.asarray(layer.mean).tolist(), np.asarray(layer.variance).tolist()]
        else:
            continue
        text = json.dumps(learnt)
        digests.append(f"{type(layer).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}")
    return digests
