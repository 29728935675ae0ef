"""Replicas: one process' devices under a ``tf.distribute`` strategy, each of which runs the train step.

A replica meets the others in two ways only: an all-reduce, or a ``merge_call``, in which one function runs *between*
the replicas, with all their values. Horovod must run there: called by every replica, it would reduce N times.

Without a strategy nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from hvdkit.keras_internals import graphs


def is_active() -> bool:
    """Whether this is a replica's step: under a strategy, and not between its replicas."""
    return tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None


def all_reduce_replicas(gradients: list) -> list:
    """Sum gradients over the replicas of this process; each replica gets the sums.

    Keras divides a mean loss by the number of replicas, so the sum is the gradient of the process' whole batch.

    Args:
        gradients: this replica's, ``tf.Tensor``, ``tf.IndexedSlices`` or None; None stays None.

    Example:

    >>> all_reduce_replicas([1.0, None])  # without a strategy: what was given
    [1.0, None]
    """
    if not is_active():
        return list(gradients)
    present = [i for i, gradient in enumerate(gradients) if gradient is not None]
    context = tf.distribute.get_replica_context()
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [gradients[i] for i in present])
    summed_by_index = dict(zip(present, summed, strict=True))
    return [summed_by_index.get(i) for i in range(len(gradients))]


def materialized(values: list) -> list:
    """The same values, computed to the end before anything continues with them; None stays None.

    TensorFlow regroups a chain of products, such as gradient * clipping * rate, by the sizes of the factors and, where
    these are equal (a variable of one element), by the names of their operations. The names differ between replicas, so
    the last bit of the product would too, and from then on the replicas' weights. It regroups nothing across a copy.

    Args:
        values: ``tf.Tensor``, ``tf.Variable``, ``tf.IndexedSlices`` or None.

    Example:

    >>> materialized([tf.constant(1.0), None])
    [<tf.Tensor: shape=(), dtype=float32, numpy=1.0>, None]
    """
    return [
        value
        if value is None
        else tf.nest.map_structure(lambda part: tf.raw_ops.Snapshot(input=part), value, expand_composites=True)
        for value in values
    ]


def merge_call_once(function: Callable[[list], list], values: list) -> list:
    """Call a function once per process, with the first replica's values; every replica gets what it returns.

    For values that the replicas have in common, such as sums over them. Only within a replica (see ``is_active``).
    """

    def between(strategy, values):
        first = [strategy.experimental_local_results(value)[0] for value in values]
        # Left to TensorFlow it could be a GPU of another process, where two share a host.
        with tf.device(graphs.first_device(strategy)):
            return function(first)

    return tf.distribute.get_replica_context().merge_call(between, args=(list(values),))


def cond(
    predicate: Callable[[], tf.Tensor], if_true: Callable[[list], None], if_false: Callable[[list], None], values: list
) -> None:
    """On every replica, call one function or the other, either of which may meet the other replicas.

    TensorFlow forbids a meeting inside a replica's own ``cond``. So the choice is made between the replicas, and they
    part again inside the branch. Only within a replica (see ``is_active``).

    Args:
        predicate: which one; of variables that the replicas have in common.
        if_true, if_false: called with ``values``.
        values: tensors, each replica its own.
    """
    if not graphs.replicas_can_meet():
        keras.ops.cond(predicate(), lambda: if_true(values), lambda: if_false(values))
        return

    def between(strategy, values):
        def everywhere(function):
            graphs.call_on_replicas(strategy, function, (values,))

        keras.ops.cond(predicate(), lambda: everywhere(if_true), lambda: everywhere(if_false))

    tf.distribute.get_replica_context().merge_call(between, args=(list(values),))
