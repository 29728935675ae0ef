"""Gradients that carry the weight of their batch from where they are made: ``tf.GradientTape`` on several ranks.

In a step on batches of unequal size a tape's ``gradient`` with respect to variables begins with the weight instead of
with 1. That costs one multiplication, and is right for every train step, whether it scales its loss, accumulates
gradients by itself or has several optimizers. Without such a step a tape does what TensorFlow's own does.

A gradient that is taken while another tape records is part of a loss (a penalty on gradients, an inner step of
meta-learning), which the outer gradient will weigh; it is left as it is.

Patched because nothing else sees a gradient before the train step does: ``tf.GradientTape`` has no hook.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import keras
import tensorflow as tf

from hvdkit.grads import batch_weight as weights
from hvdkit.utils.patching import Patches

_thread = threading.local()


def patch_tape(patches: Patches) -> None:
    """Wrap the tape's methods."""
    for name, wrapper in {"gradient": _gradient, "__enter__": _enter, "__exit__": _exit}.items():
        patches.wrap(tf.GradientTape, name, wrapper)


def forget() -> None:
    """Forget which tapes record: they are not watched any more."""
    _thread.tapes = []


def _recording() -> list:
    """The tapes that record on this thread, the innermost last, without those that were entered by hand and dropped."""
    tapes = [tape() for tape in getattr(_thread, "tapes", [])]
    return [tape for tape in tapes if tape is not None]


def _set_recording(tapes: list) -> None:
    _thread.tapes = [weakref.ref(tape) for tape in tapes]


def _enter(original):
    def __enter__(self):
        _set_recording([*_recording(), self])
        return original(self)

    return __enter__


def _exit(original):
    def __exit__(self, *error):
        _set_recording([tape for tape in _recording() if tape is not self])
        return original(self, *error)

    return __exit__


def _gradient(original):
    @_not_within_a_backward_pass(original)
    def gradient(self, target, sources, output_gradients, unconnected_gradients):
        weight = weights.current()
        if weight is None or not any(isinstance(s, tf.Variable | keras.Variable) for s in tf.nest.flatten(sources)):
            return original(self, target, sources, output_gradients, unconnected_gradients)
        weight.met = True
        if any(tape is not self for tape in _recording()):
            made = original(self, target, sources, output_gradients, unconnected_gradients)
            weight.inner.extend(g for g in tf.nest.flatten(made) if g is not None)
            return made
        targets = tf.nest.flatten(target)
        if all(isinstance(t, tf.Tensor) for t in targets):
            given = [None] * len(targets) if output_gradients is None else tf.nest.flatten(output_gradients)
            initial = [_initial_gradient(t, g, weight.value) for t, g in zip(targets, given, strict=True)]
            made = original(self, target, sources, tf.nest.pack_sequence_as(target, initial), unconnected_gradients)
            flat = tf.nest.flatten(made)
        else:  # a ragged tensor, a variable: the backward pass begins with something else than a number for each
            made = original(self, target, sources, output_gradients, unconnected_gradients)
            flat = weights.times(tf.nest.flatten(made), weight.value)
        flat = weights.or_zeros(flat, weight)
        weight.carried.extend(g for g in flat if g is not None)
        return tf.nest.pack_sequence_as(made, flat)

    return gradient


def _not_within_a_backward_pass(original):
    """Layers that compute again what they need (``keras.RematScope``) ask a tape of their own, within the backward pass
    of the step's: what they are given has the weight already."""

    def decorate(gradient):
        def outermost(self, target, sources, output_gradients=None, unconnected_gradients=tf.UnconnectedGradients.NONE):
            if getattr(_thread, "backward", False):
                return original(self, target, sources, output_gradients, unconnected_gradients)
            _thread.backward = True
            try:
                return gradient(self, target, sources, output_gradients, unconnected_gradients)
            finally:
                _thread.backward = False

        return outermost

    return decorate


def _initial_gradient(target: tf.Tensor, given: Any, weight: tf.Tensor) -> tf.Tensor:
    """What the backward pass begins with at a target."""
    weight = tf.cast(weight, target.dtype)
    return tf.fill(tf.shape(target), weight) if given is None else given * weight
