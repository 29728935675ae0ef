"""The periods of local SGD: some steps that each rank makes by itself, then the mean of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from hvdkit.errors import UsageError
from hvdkit.grads.identity import LocalVariables
from hvdkit.grads.pipeline import GradientPipeline
from hvdkit.utils.stateful import Entry, Kind


@dataclass(eq=False)
class PeriodicAveraging:
    """When the weights are averaged, and what is done with their mean.

    Attributes:
        sync_period: updates between two averages.
        start_step: updates before the first period, in which gradients are reduced as always.
        outer_lr, outer_momentum, nesterov: of the outer step, which begins at the weights from the start of the period.
        steps_since_sync: updates since the weights were averaged; a variable.
        outer_parameters, outer_momenta: the weights at the start of the period, and the momentum of the outer steps;
            empty without an outer optimizer.
    """

    sync_period: int
    start_step: int = 0
    outer_lr: float = 1.0
    outer_momentum: float = 0.0
    nesterov: bool = True
    outer_parameters: list = field(default_factory=list)
    outer_momenta: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    local: LocalVariables = field(default_factory=LocalVariables)

    def __post_init__(self):
        with tf.init_scope():
            self.steps_since_sync = tf.Variable(0, dtype=tf.int64, trainable=False, name="hvdkit_since")

    @property
    def variables(self) -> list:
        """The weights that are averaged: all but those that are kept local."""
        return [v for v in self.weights if v not in self.local] if self.local else self.weights

    @property
    def has_outer(self) -> bool:
        """Whether the weights become something else than their mean."""
        return bool(self.outer_momentum) or self.outer_lr != 1.0

    def state_dict(self) -> dict[str, Entry]:
        """What a checkpoint keeps. Each rank has its own values, and their mean counts."""
        kept = {"weights": self.variables, "since": self.steps_since_sync}
        kept |= {"anchors": self.outer_parameters, "velocities": self.outer_momenta}
        return {name: Entry(value, Kind.MEAN) for name, value in kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse an outer momentum for which there is nothing here; the variables have their values already.

        Raises:
            UsageError: there was an outer optimizer, and there is none now.
        """
        if state["anchors"] and not self.has_outer:
            raise UsageError(
                "The checkpoint does not fit: its local SGD was saved with an outer optimizer, and this one has none.",
                fix="give hvd.optim.LocalSGD the outer_lr and outer_momentum that it had.",
            )

    def build(self, variables: list, local: LocalVariables) -> None:
        """Make the variables for each weight, as the optimizer makes its slots."""
        self.weights, self.local = list(variables), local
        if not self.has_outer or self.outer_parameters:
            return
        with tf.init_scope():
            zeros_like = lambda v: tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False)
            self.outer_parameters = [zeros_like(v) for v in self.weights]
            self.outer_momenta = [zeros_like(v) for v in self.weights]

    def reductions(self, before: int, after: int) -> int:
        """How many reductions there are at least between two numbers of updates.

        >>> PeriodicAveraging(sync_period=4, start_step=10).reductions(8, 20)
        4
        """
        local = max(after, self.start_step) - max(before, self.start_step)
        return (after - before - local) + local // self.sync_period

    def reduce(self, reduce: Callable[[list], list], gradients: list, updates: Any) -> list:
        """Gradients that are reduced before ``start_step``, and this rank's own afterwards."""
        if not self.start_step:
            return gradients
        return tf.cond(updates < self.start_step, lambda: reduce(gradients), lambda: list(map(tf.identity, gradients)))

    def before_update(self, updates: Any) -> None:
        """Before an update: remember the weights at the start of a period."""
        if not self.has_outer:
            return

        def remember() -> tf.Tensor:
            for outer_parameter, variable in zip(self.outer_parameters, self.weights, strict=True):
                outer_parameter.assign(tf.convert_to_tensor(variable))
            return tf.constant(0)

        first = tf.logical_and(tf.equal(self.steps_since_sync, 0), tf.cast(updates, tf.int64) >= self.start_step)
        tf.cond(first, remember, lambda: tf.constant(0))

    def after_update(self, pipeline: GradientPipeline, updates: Any) -> None:
        """After an update: average the weights if the period is over."""
        self.steps_since_sync.assign_add(tf.cast(tf.cast(updates, tf.int64) >= self.start_step, tf.int64))
        tf.cond(self.steps_since_sync >= self.sync_period, lambda: self.average(pipeline), lambda: tf.constant(0))

    def average(self, pipeline: GradientPipeline) -> tf.Tensor:
        """Average the weights over the ranks, and end the period."""
        shared = self.variables
        means = pipeline([tf.convert_to_tensor(v) for v in shared], shared, call=".weights")
        kept = [i for i, v in enumerate(self.weights) if not (self.local and v in self.local)]
        for i, variable, mean in zip(kept, shared, means, strict=True):
            new = self._outer_step(mean, self.outer_parameters[i], self.outer_momenta[i]) if self.has_outer else mean
            variable.assign(new)
        self.steps_since_sync.assign(0)
        return tf.constant(0)

    def _outer_step(self, mean: tf.Tensor, outer_parameter: tf.Variable, momentum: tf.Variable) -> tf.Tensor:
        """A step of SGD with momentum from the outer parameter; its gradient is the movement in the period, negated."""
        gradient = outer_parameter - mean
        new = momentum.assign(self.outer_momentum * momentum + gradient)
        step = gradient + self.outer_momentum * new if self.nesterov and self.outer_momentum else new
        return outer_parameter - self.outer_lr * step

    def synchronize(self, pipeline: GradientPipeline) -> None:
        """Average the weights within a period, outside the graph; collective."""
        if int(self.steps_since_sync.numpy()):
            self.average(pipeline)
