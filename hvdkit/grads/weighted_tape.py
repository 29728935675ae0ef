"""Gradients that carry the share of their batch from where they are made: ``tf.GradientTape`` on several ranks.

In a step on batches of unequal size a tape's ``gradient`` with respect to variables begins with the share instead of
with 1. That costs one multiplication, and is right for every train step, whether it scales its loss, accumulates
gradients by itself or has several optimizers. Without such a step a tape does what TensorFlow's own does.

A gradient that is taken while another tape records is part of a loss (a penalty on gradients, an inner step of
meta-learning), which the outer gradient will weigh; it is left as it is.

Patched because nothing else sees a gradient before the train step does: ``tf.GradientTape`` has no hook.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import keras
import tensorflow as tf

from hvdkit.grads import share as shares

_originals: dict[str, Any] = {}
_thread = threading.local()


def install() -> None:
    """Wrap the tape's methods; ``remove`` takes the wrappers off."""
    if _originals:
        return
    for name, wrapper in {"gradient": _gradient, "__enter__": _enter, "__exit__": _exit}.items():
        _originals[name] = getattr(tf.GradientTape, name)
        setattr(tf.GradientTape, name, functools.wraps(_originals[name])(wrapper(_originals[name])))


def remove() -> None:
    """Give TensorFlow its own tape back."""
    for name, original in _originals.items():
        setattr(tf.GradientTape, name, original)
    _originals.clear()


def _recording() -> list:
    """The tapes that record on this thread, the innermost last."""
    if not hasattr(_thread, "tapes"):
        _thread.tapes = []
    return _thread.tapes


def _enter(original):
    def __enter__(self):
        _recording().append(self)
        return original(self)

    return __enter__


def _exit(original):
    def __exit__(self, *error):
        _thread.tapes = [tape for tape in _recording() if tape is not self]
        return original(self, *error)

    return __exit__


def _gradient(original):
    def gradient(
        self,
        target,
        sources,
        output_gradients=None,
        unconnected_gradients=tf.UnconnectedGradients.NONE,
    ):
        share = shares.current()
        if share is None or not any(isinstance(s, tf.Variable | keras.Variable) for s in tf.nest.flatten(sources)):
            return original(self, target, sources, output_gradients, unconnected_gradients)
        share.met = True
        if any(tape is not self for tape in _recording()):
            made = original(self, target, sources, output_gradients, unconnected_gradients)
            share.inner.extend(g for g in tf.nest.flatten(made) if g is not None)
            return made
        targets = tf.nest.flatten(target)
        given = [None] * len(targets) if output_gradients is None else tf.nest.flatten(output_gradients)
        weighed = [_begin(t, g, share.value) for t, g in zip(targets, given, strict=True)]
        made = original(self, target, sources, tf.nest.pack_sequence_as(target, weighed), unconnected_gradients)
        share.carried = True
        return tf.nest.pack_sequence_as(made, shares.or_zeros(tf.nest.flatten(made), share))

    return gradient


def _begin(target: Any, given: Any, share: tf.Tensor) -> Any:
    """What the backward pass begins with at a target; what is no tensor TensorFlow itself refuses."""
    if not isinstance(target, tf.Tensor):
        return given
    weight = tf.cast(share, target.dtype)
    return tf.fill(tf.shape(target), weight) if given is None else given * weight
