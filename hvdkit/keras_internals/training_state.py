"""What Keras keeps of a training, as a checkpoint needs it: collected in one walk over the model."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.keras_internals import attributes, optimizers
from hvdkit.keras_internals.model_contents import (
    backend_variable,
    is_local,
    optimizers_of,
    parameters_of,
    reachable_objects,
    reduction_state_of,
    unwrap,
    weights_of,
)
from hvdkit.utils.stateful import Stateful, StatefulOf

# What the schedule of an optimizer is to it.
SCHEDULES = "schedules"


class ModelContents:
    """What one walk over a model reaches.

    Attributes:
        optimizers: those that make steps.
        weights: of the model and of what it holds, each once.
        parameters: those of the weights that ranks have in common.
    """

    def __init__(self, model: keras.Model):
        things = reachable_objects(model)
        self.model = model
        self.optimizers = optimizers_of(model, things)
        self.weights = weights_of(model, things)
        self.parameters = parameters_of(model, things)

    def optimizer_variables(self) -> list:
        """The variables of the optimizers, each once: iterations, learning rate, slots, loss scale."""
        variables = [v for optimizer in self.optimizers for v in optimizer.variables]
        return list({id(v): v for v in variables}.values())

    def others(self) -> list:
        """What is neither a parameter nor of a metric: seeds of dropout, statistics of batch norm, local weights."""
        skip = {id(backend_variable(v)) for v in [*self.parameters, *self.model.metrics_variables]}
        variables = [*self.model.weights, *self.model.non_trainable_variables, *self.weights]
        return list({id(v): v for v in variables if id(backend_variable(v)) not in skip}.values())

    def local_weights(self) -> list:
        """The weights that are kept local."""
        return [v for v in self.weights if is_local(v)]

    def unreachable_optimizers(self) -> list:
        """The distributed optimizers that the model does not hold, and that train weights of it that none of its own
        does: one that was compiled before may be alive still. Weights that are frozen now are trained by none."""
        known = {id(unwrap(optimizer)) for optimizer in self.optimizers}
        trained = {id(backend_variable(v)) for o in self.optimizers for v in trained_variables(o)}
        frozen = {id(backend_variable(v)) for v in self.model.non_trainable_variables}
        weights = {id(backend_variable(v)) for v in self.weights if v.trainable} - frozen - trained
        others = {id(o): o for o in map(unwrap, attributes.distributed_optimizers()) if id(o) not in known}.values()
        return [o for o in others if any(id(backend_variable(v)) in weights for v in trained_variables(o))]

    def of_earlier_protocols(self) -> list[tuple[Any, tuple[str, str]]]:
        """The reducers and schedules that are not ``Stateful`` and have what an earlier hvdkit asked for: what that is,
        and what to have instead."""
        found = []
        for optimizer in self.optimizers:
            distribution, schedule = reduction_state_of(optimizer), optimizers.schedule_of(optimizer)
            reducer = None if distribution is None else distribution.pipeline.options.reducer
            if not isinstance(reducer, Stateful) and getattr(reducer, "variables", None):
                found.append((reducer, ("`variables`", 'hvd.checkpoint.Entry(self.variables, "mean")')))
            if not isinstance(schedule, Stateful) and hasattr(schedule, "position") and hasattr(schedule, "go_on"):
                found.append((schedule, ("position() and go_on()", 'state["iterations"] is the number of steps')))
        return found


def trained_variables(optimizer: Any) -> list:
    """The variables that an optimizer was built for; none before."""
    inner = unwrap(optimizer)
    return list(optimizers.trainable_variables(inner)) if inner.built else []


def averaged_variables(optimizer: Any) -> list:
    """The weights of an optimizer with ``use_ema``, and their averages; none without."""
    inner = unwrap(optimizer)
    averaged = getattr(inner, "use_ema", False) and inner.built
    return [*optimizers.trainable_variables(inner), *optimizers.moving_averages(inner)] if averaged else []


def attached_to(optimizer: Any) -> dict[str, Stateful]:
    """What an optimizer works with and is ``Stateful``, by what it is to the optimizer.

    Of a distributed optimizer it is what its ``ReductionState`` names: how it reduces gradients.
    """
    distribution = reduction_state_of(optimizer)
    attached = {} if distribution is None else distribution.stateful()
    schedule = optimizers.schedule_of(optimizer)
    if isinstance(schedule, Stateful):
        attached = {SCHEDULES: _ScheduleOf(optimizer, schedule), **attached}
    # A class may be a compressor of Horovod's kind; it has the methods, and nothing to call them on.
    stateful = lambda thing: isinstance(thing, Stateful) and not isinstance(thing, type)
    return {name: thing for name, thing in attached.items() if stateful(thing)}


class _ScheduleOf(StatefulOf):
    """The learning rate schedule of an optimizer, which tells it how many steps it has made."""

    def __init__(self, optimizer: Any, schedule: Stateful):
        super().__init__(schedule)
        self._optimizer = optimizer

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict({**state, "iterations": optimizers.steps_taken(unwrap(self._optimizer))})
