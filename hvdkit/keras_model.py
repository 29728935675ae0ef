"""What a Keras model trains with: its optimizers, its parameters, and the state that ranks must share."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import keras
import numpy as np


def optimizers_of(model: keras.Model) -> list:
    """The optimizers that make steps: ``model.optimizer``, those a model holds as attributes (a GAN's), and for a
    ``MultiOptimizer`` those inside it."""
    found = [getattr(model, "optimizer", None), *vars(model).values()]
    found = [o for o in found if isinstance(o, keras.optimizers.Optimizer)]
    found = [inner for o in found for inner in getattr(o, "optimizers", [o])]
    return list({id(o): o for o in found}.values())


def distribution_of(optimizer: Any) -> Any:
    """The ``Distribution`` of an optimizer, or of the one inside a ``LossScaleOptimizer``; None where there is none."""
    return getattr(getattr(optimizer, "inner_optimizer", optimizer), "_hvdkit", None)


def optimizer_state_of(model: keras.Model) -> list:
    """The variables of a model's optimizers, each once: iterations, learning rate, slots, loss scale."""
    variables = [v for optimizer in optimizers_of(model) for v in optimizer.variables]
    return list({id(v): v for v in variables}.values())


def underlying(variable: Any) -> Any:
    """The TensorFlow variable that holds the value: the identity of a Keras variable, which may be wrapped anew."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def slots_of(model: keras.Model, variables: list) -> list:
    """What the model's optimizers keep for these variables: momenta, accumulated gradients, moving averages.

    Keras keeps each kind of slot as a list parallel to the variables the optimizer was built with.
    """
    wanted = {id(underlying(v)) for v in variables}
    slots = []
    for optimizer in optimizers_of(model):
        state = vars(getattr(optimizer, "inner_optimizer", optimizer))
        trained = state["_trainable_variables"]
        kinds = [v for name, v in state.items() if isinstance(v, list) and name not in _NO_SLOTS]
        for kind in kinds:
            if len(kind) == len(trained):
                slots += [slot for slot, v in zip(kind, trained, strict=True) if id(underlying(v)) in wanted]
    return [slot for slot in slots if isinstance(slot, keras.Variable)]


_NO_SLOTS = ("_variables", "_trainable_variables")


def keep_local(variable: Any) -> None:
    """Mark a variable as each rank's own, so that nothing asks for it to be equal on all ranks."""
    underlying(variable)._hvdkit_local = True


def parameters_of(model: Any) -> list:
    """The weights that ranks must have in common: trainable ones, frozen ones too, but no batch statistics and none
    that is kept local."""
    frozen = [
        v for layer in model._flatten_layers() for v in getattr(layer, "_trainable_variables", ()) if not v.trainable
    ]
    weights = list({id(v): v for v in [*model.trainable_variables, *frozen]}.values())
    return [v for v in weights if not getattr(underlying(v), "_hvdkit_local", False)]


def build_optimizer(model: keras.Model) -> None:
    """Make the slots of a built model's optimizer now instead of in the first step."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built and model.built and model.trainable_variables:
        with model.distribute_strategy.scope():  # slots are mirrored where the weights are
            optimizer.build(model.trainable_variables)


def renew_adapted(model: keras.Model) -> None:
    """Let layers that compute with constants made from their weights (``Normalization``) make them anew."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def adapted_of(model: keras.Model) -> list[str]:
    """A digest of what each layer learnt from data by ``adapt``: vocabularies, boundaries, means and variances."""
    digests = []
    for layer in model._flatten_layers():
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
