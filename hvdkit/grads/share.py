"""What this rank's batch weighs: batches of unequal size, and the mean over all their samples.

The mean over N ranks of share * gradient is the gradient of all their samples together, where a rank's share is

    its samples * N / the samples of all ranks

and its gradient that of the mean loss over its own samples. Multiplying the *loss* costs one number: every gradient
follows. It is done where Keras scales the loss, which is after the metrics have seen it. A train step of a user's own
may never scale its loss; then the gradients themselves are multiplied, before anything else is done with them.

>>> import tensorflow as tf
>>> with of_this_step(Share(tf.constant(1.5))):
...     float(weigh_loss("an optimizer", tf.constant(2.0))), weigh_gradients("an optimizer", [tf.constant(2.0)])
(3.0, [<tf.Tensor: shape=(), dtype=float32, numpy=2.0>])
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf


@dataclass(eq=False)
class Share:
    """The share of the step that is being made, or traced.

    Attributes:
        value: a scalar ``tf.Tensor``, float32; 0 for a rank without samples.
        may_be_zero: a rank may be without samples: then what it brings is made zero, whatever a stand-in for its
            batch gave.
        weighed: whose loss was multiplied already.
    """

    value: Any
    may_be_zero: bool = False
    weighed: set = field(default_factory=set)


_step = threading.local()  # a strategy's replicas are threads


def current() -> Share | None:
    """The share of the step that is being made; None where all batches are of one size."""
    return getattr(_step, "share", None)


@contextlib.contextmanager
def of_this_step(share: Share | None) -> Iterator[None]:
    """Inside, losses and gradients are weighed by this."""
    before, _step.share = current(), share
    try:
        yield
    finally:
        _step.share = before


def weigh_loss(whose: Any, loss: Any) -> Any:
    """A loss times the share; remembers that the gradients of this optimizer need no more of it."""
    share = current()
    if share is None:
        return loss
    share.weighed.add(whose)
    return loss * tf.cast(share.value, loss.dtype)


def weigh_gradients(whose: Any, gradients: list) -> list:
    """Gradients times the share, where their loss was not; zeros where this rank has no samples."""
    share = current()
    if share is None:
        return list(gradients)
    if whose not in share.weighed:
        gradients = [_times(g, share.value) for g in gradients]
    return _or_zeros(gradients, share.value) if share.may_be_zero else list(gradients)


def _times(gradient: Any, share: Any) -> Any:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(_times(gradient.values, share), gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(share, gradient.dtype)


def _or_zeros(gradients: list, share: Any) -> list:
    """Not times zero: a stand-in's gradient may be NaN. And by a ``cond``, which copies nothing where all is well."""
    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    there = [tf.convert_to_tensor(v) for v in values if v is not None]
    chosen = iter(tf.cond(share > 0, lambda: list(map(tf.identity, there)), lambda: list(map(tf.zeros_like, there))))
    return [g if g is None else _with(g, next(chosen)) for g in gradients]


def _with(gradient: Any, values: tf.Tensor) -> Any:
    sparse = isinstance(gradient, tf.IndexedSlices)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape) if sparse else values
