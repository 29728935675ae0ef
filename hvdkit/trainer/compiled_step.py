"""``jit_compile=True`` on several ranks: a train step whose two halves XLA compiles, with the reduction between them.

No transport has a place inside XLA. So the step is cut where the gradients leave the backward pass:

    forward, backward     compiled     Keras' own ``train_step``, whose ``optimizer.apply`` only takes down what it gets
    reduction             not          the gradient pipeline
    update, clip, EMA     compiled     the optimizer's ``apply``, told that its gradients are reduced

The cut changes nothing because Keras' own ``train_step`` reads no weight after it has applied the gradients. Of a
user's own ``train_step`` that is unknown, so it is not cut.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engines import is_collective
from hvdkit.grads import batch_weight
from hvdkit.keras_internals import optimizers
from hvdkit.keras_internals.attributes import own_reduction_state
from hvdkit.keras_internals.graphs import PYTHON_OPERATIONS
from hvdkit.keras_internals.model_contents import build_optimizer
from hvdkit.optim import loss_scale
from hvdkit.optim.distributed import is_distributed
from hvdkit.utils.log import get_logger

_ON = "jit_compile: XLA compiles the train step but for the reduction between backward pass and update."
_OFF = "jit_compile is off for the train step: %s. Evaluation and prediction keep it."


def train_step(model: keras.Model) -> Callable[[Any], Any] | None:
    """The model's train step with its halves compiled; None, and a line that says why, where it cannot be cut."""
    why_not = _why_not(model)
    if why_not:
        get_logger().info(_OFF, why_not)
        return None
    build_optimizer(model)  # an unbuilt LossScaleOptimizer would bake its first scale into the first half
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        loss_scale.wrap_once(optimizer)
    plain = model.train_step
    say_on = functools.cache(lambda: get_logger().info(_ON))  # a step is traced again for each shape of data

    variables: list = []  # of the gradients; known when the first half has been traced

    def forward_and_backward(data: Any, weight: Any) -> tuple:
        own = None if weight is None else batch_weight.BatchWeight(weight)
        with _capture_gradients(optimizer) as taken, batch_weight.weigh_by(own):
            logs = plain(data)
        gradients, variables[:] = taken or ([], [])
        return logs, gradients

    def update(gradients: list) -> None:
        with own_reduction_state(optimizer).skip_reduction():
            optimizer.apply(gradients, variables)

    first = tf.function(forward_and_backward, jit_compile=True, autograph=False)
    second = tf.function(update, jit_compile=True, autograph=False)

    def step(data: Any) -> Any:
        current = batch_weight.current()
        weight = None if current is None else current.value
        in_the_way = _not_for_xla(first.get_concrete_function(data, weight).graph)
        if in_the_way:
            get_logger().info(_OFF, f"its forward or backward pass has operations that XLA lacks ({in_the_way})")
            return plain(data)
        say_on()
        logs, gradients = first(data, weight)
        if not variables:  # nothing to train
            return logs
        if current is not None:
            current.met = True
            gradients = batch_weight.or_zeros(gradients, current)
        with batch_weight.weigh_by(None):
            if _has_collectives(optimizer):
                optimizer.apply(gradients, variables)
            else:
                indices = optimizers.variable_indices(optimizer, variables)
                second(own_reduction_state(optimizer).reduce(gradients, variables, indices))
        return logs

    return step


def _why_not(model: keras.Model) -> str | None:
    if type(model).train_step is not keras.Model.train_step or "train_step" in vars(model):
        return f"{type(model).__name__} has a custom train_step, which hvdkit does not split at the reduction"
    if tf.distribute.has_strategy() or model.distribute_strategy.num_replicas_in_sync > 1:
        return "it does not run on several replicas"
    if not is_distributed(model.optimizer):
        return "its optimizer is not a hvd.DistributedOptimizer"
    if not model.built:
        return f"{model.name} could not be built before its first step"
    return None


def _not_for_xla(graph: tf.Graph) -> str:
    """The collectives and Python functions in a graph and the functions it calls, by the names of their operations."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return ", ".join(sorted({n.op for n in nodes if is_collective(n.op) or n.op in PYTHON_OPERATIONS}))


def _has_collectives(optimizer: Any) -> bool:
    """Whether ``apply`` asks the other ranks in the middle: to reduce, to average, or for what is finite."""
    inner, state = optimizers.unwrap(optimizer), own_reduction_state(optimizer)
    asks = inner is not optimizer and bool(state.local)
    return bool(inner.gradient_accumulation_steps) or not own_reduction_state(inner).is_synchronous or asks


@contextlib.contextmanager
def _capture_gradients(optimizer: Any) -> Iterator[list]:
    """Inside, ``optimizer.apply`` does nothing but put its gradients and its variables into the list."""
    taken: list = []
    vars(optimizer)["apply"] = lambda grads, variables: taken.extend([list(grads), list(variables)])
    try:
        yield taken
    finally:
        del vars(optimizer)["apply"]
