"""What Keras keeps of a training, as a checkpoint needs it: found by one walk over the model."""

from __future__ import annotations

import weakref
from typing import Any

import keras

from hvdkit.keras_internals.model_contents import (
    distribution_of,
    held,
    optimizers_of,
    parameters_of,
    underlying,
    unwrap,
    weights_of,
)
from hvdkit.utils.stateful import Stateful

_distributed: weakref.WeakSet = weakref.WeakSet()


class ModelContents:
    """What one walk over a model has found.

    Attributes:
        optimizers: those that make steps.
        weights: of the model and of what it holds, each once.
        parameters: those of the weights that ranks have in common.
    """

    def __init__(self, model: keras.Model):
        found = held(model)
        self.model = model
        self.optimizers = optimizers_of(model, found)
        self.weights = weights_of(model, found)
        self.parameters = parameters_of(model, found)

    def optimizer_variables(self) -> list:
        """The variables of the optimizers, each once: iterations, learning rate, slots, loss scale."""
        variables = [v for optimizer in self.optimizers for v in optimizer.variables]
        return list({id(v): v for v in variables}.values())

    def others(self) -> list:
        """What is neither a parameter nor of a metric: seeds of dropout, statistics of batch norm, local weights."""
        skip = {id(underlying(v)) for v in [*self.parameters, *self.model.metrics_variables]}
        variables = [*self.model.weights, *self.model.non_trainable_variables, *self.weights]
        return list({id(v): v for v in variables if id(underlying(v)) not in skip}.values())

    def local_weights(self) -> list:
        """The weights that are kept local."""
        return [v for v in self.weights if getattr(underlying(v), "_hvdkit_local", False)]

    def not_found(self) -> list:
        """The distributed optimizers that the model does not hold, and that train weights of it that none of its own
        does: one that was compiled before may be alive still."""
        known = {id(unwrap(optimizer)) for optimizer in self.optimizers}
        trained = {id(underlying(v)) for o in self.optimizers for v in trained_variables(o)}
        weights = {id(underlying(v)) for v in self.weights} - trained
        others = {id(o): o for o in map(unwrap, list(_distributed)) if id(o) not in known}.values()
        return [o for o in others if any(id(underlying(v)) in weights for v in trained_variables(o))]


def note_distributed(optimizer: Any) -> None:
    """Remember an optimizer, so that a checkpoint can tell when the model does not hold it."""
    _distributed.add(optimizer)


def trained_variables(optimizer: Any) -> list:
    """The variables that an optimizer was built for; none before."""
    inner = unwrap(optimizer)
    return list(inner._trainable_variables) if inner.built else []


def averaged_variables(optimizer: Any) -> list:
    """The weights of an optimizer with ``use_ema``, and their averages; none without."""
    inner = unwrap(optimizer)
    averaged = getattr(inner, "use_ema", False) and inner.built
    return [*inner._trainable_variables, *inner._model_variables_moving_average] if averaged else []


def steps_of(optimizer: Any) -> int:
    """How many steps an optimizer has made: those whose gradients it has accumulated too, which Keras' own
    ``iterations`` leaves out, and which schedules are called with."""
    return int(unwrap(optimizer)._iterations.numpy())


def accumulated_gradients(optimizer: Any) -> list:
    """The gradients that wait for their reduction, where the optimizer accumulates."""
    return list(getattr(unwrap(optimizer), "_accumulated_gradients", None) or ())


def attached_to(optimizer: Any) -> dict[str, Stateful]:
    """What an optimizer works with and is ``Stateful``, by what it is to the optimizer.

    Of a distributed optimizer it is what its ``Distribution`` names: how it reduces gradients.
    """
    distribution = distribution_of(optimizer)
    found = {} if distribution is None else distribution.stateful()
    schedule = getattr(unwrap(optimizer), "_learning_rate", None)
    if isinstance(schedule, Stateful):
        found = {"schedules": _ScheduleOf(optimizer, schedule), **found}
    return {name: thing for name, thing in found.items() if isinstance(thing, Stateful)}


class _ScheduleOf:
    """The learning rate schedule of an optimizer, which tells it how many steps it has made."""

    def __init__(self, optimizer: Any, schedule: Stateful):
        self._optimizer, self._schedule = optimizer, schedule

    def state_dict(self) -> dict[str, Any]:
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._schedule.load_state_dict({**state, "iterations": steps_of(self._optimizer)})


def says_averages_are_in_the_weights(callback: Any, attribute: str) -> bool:
    """Whether this is where ``SwapEMAWeights`` notes that averages stand in the place of the weights."""
    return attribute == "_ema_weights_in_model" and isinstance(callback, keras.callbacks.SwapEMAWeights)


def global_seed_generator(*, make: bool = False) -> Any:
    """The generator of layers without a seed of their own and of ``keras.random``; None where nothing has used it.

    Args:
        make: one where there is none.
    """
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator

    return (
        seed_generator.global_seed_generator() if make else global_state.get_global_attribute("global_seed_generator")
    )


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Let the ``fit`` that is about to begin begin with an epoch, whatever its argument says; None lets it be."""
    model._initial_epoch = epoch
