"""The rounds of local SGD: some steps that each rank makes by itself, then the mean of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from hvdkit.grads.identity import LocalVariables
from hvdkit.grads.pipeline import GradientPipeline
from hvdkit.utils.stateful import Entry, Kind


@dataclass(eq=False)
class Rounds:
    """When the weights are averaged, and what is done with their mean.

    Attributes:
        k: updates in a round.
        start: updates before the first round, in which gradients are reduced as always.
        outer_lr, outer_momentum, nesterov: of the step from where a round began towards the mean.
        since: updates in the round that runs; a variable.
        anchors, velocities: where the round began, and the outer velocity; empty without an outer optimizer.
    """

    k: int
    start: int = 0
    outer_lr: float = 1.0
    outer_momentum: float = 0.0
    nesterov: bool = True
    anchors: list = field(default_factory=list)
    velocities: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    local: LocalVariables = field(default_factory=LocalVariables)

    def __post_init__(self):
        with tf.init_scope():
            self.since = tf.Variable(0, dtype=tf.int64, trainable=False, name="hvdkit_since")

    @property
    def variables(self) -> list:
        """The weights that are averaged: all but those that are kept local."""
        return [v for v in self.weights if v not in self.local] if self.local else self.weights

    @property
    def has_outer(self) -> bool:
        """Whether the weights become something else than their mean."""
        return bool(self.outer_momentum) or self.outer_lr != 1.0

    def state_dict(self) -> dict[str, Entry]:
        """What a checkpoint keeps; of the weights only that ranks have each their own, whose mean counts."""
        kept = {"weights": self.variables, "since": self.since}
        kept |= {"anchors": self.anchors, "velocities": self.velocities}
        return {name: Entry(value, Kind.MEAN) for name, value in kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The variables have got their values."""

    def build(self, variables: list, local: LocalVariables) -> None:
        """Make what there is for each weight, as the optimizer makes its slots."""
        self.weights, self.local = list(variables), local
        if not self.has_outer or self.anchors:
            return
        with tf.init_scope():
            make = lambda v: tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False)
            self.anchors, self.velocities = [make(v) for v in self.weights], [make(v) for v in self.weights]

    def reductions(self, before: int, after: int) -> int:
        """How many reductions there are at least between two numbers of updates.

        >>> Rounds(k=4, start=10).reductions(8, 20)
        4
        """
        local = max(after, self.start) - max(before, self.start)
        return (after - before - local) + local // self.k

    def reduce(self, reduce: Callable[[list], list], gradients: list, updates: Any) -> list:
        """Gradients that are reduced before ``start``, and this rank's own afterwards."""
        if not self.start:
            return gradients
        return tf.cond(updates < self.start, lambda: reduce(gradients), lambda: list(map(tf.identity, gradients)))

    def begin(self, updates: Any) -> None:
        """Before an update: remember where the round begins."""
        if not self.has_outer:
            return

        def remember() -> tf.Tensor:
            for anchor, variable in zip(self.anchors, self.weights, strict=True):
                anchor.assign(tf.convert_to_tensor(variable))
            return tf.constant(0)

        first = tf.logical_and(tf.equal(self.since, 0), tf.cast(updates, tf.int64) >= self.start)
        tf.cond(first, remember, lambda: tf.constant(0))

    def end(self, pipeline: GradientPipeline, updates: Any) -> None:
        """After an update: average the weights where the round is over."""
        self.since.assign_add(tf.cast(tf.cast(updates, tf.int64) >= self.start, tf.int64))
        tf.cond(self.since >= self.k, lambda: self.average(pipeline), lambda: tf.constant(0))

    def average(self, pipeline: GradientPipeline) -> tf.Tensor:
        """Average the weights over the ranks, and end the round."""
        shared = self.variables
        means = pipeline([tf.convert_to_tensor(v) for v in shared], shared, call=".weights")
        kept = [i for i, v in enumerate(self.weights) if not (self.local and v in self.local)]
        for i, variable, mean in zip(kept, shared, means, strict=True):
            variable.assign(self._outer(mean, self.anchors[i], self.velocities[i]) if self.has_outer else mean)
        self.since.assign(0)
        return tf.constant(0)

    def _outer(self, mean: tf.Tensor, anchor: tf.Variable, velocity: tf.Variable) -> tf.Tensor:
        """A step of SGD with momentum from the anchor, whose gradient is what the round moved, backwards."""
        moved = anchor - mean
        new = velocity.assign(self.outer_momentum * velocity + moved)
        step = moved + self.outer_momentum * new if self.nesterov and self.outer_momentum else new
        return anchor - self.outer_lr * step

    def settle(self, pipeline: GradientPipeline) -> None:
        """End a round that is under way, outside the graph; collective."""
        if int(self.since.numpy()):
            self.average(pipeline)
