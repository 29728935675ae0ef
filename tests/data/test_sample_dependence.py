"""Which variables a step changes by what its samples hold: read from graphs as scripts make them."""

from __future__ import annotations

import pytest
import tensorflow as tf

from hvdkit.data.sample_dependence import kinds_of_change
from hvdkit.engines.mpi import COLLECTIVE
from hvdkit.grads.batch_weight import ZERO_WITHOUT_SAMPLES


class _Backwards:
    """A graph whose nodes, and those of its functions, are listed from the last to the first."""

    def __init__(self, graph: tf.Graph):
        self._graph = graph

    def as_graph_def(self):
        definition = self._graph.as_graph_def()
        for nodes in [definition.node, *(function.node_def for function in definition.library.function)]:
            turned = list(nodes)[::-1]
            del nodes[:]
            nodes.extend(turned)
        return definition


def _changes(step, *, backwards: bool) -> list[set[str]]:
    """What ``step(x, *variables)`` does to its variables."""
    variables = [tf.Variable(1.0) for _ in range(2)]
    found: list = []

    @tf.function(autograph=False)
    def traced(x):
        step(x, *variables)
        graph = tf.compat.v1.get_default_graph()
        handles = [graph.capture(v.handle) for v in variables]
        found.append(kinds_of_change(_Backwards(graph) if backwards else graph, x, handles))

    traced.get_concrete_function(tf.TensorSpec((None,)))
    return found[0]


def _in_branch(x, v, w):
    tf.cond(w > 0, lambda: v.assign_add(1.0), lambda: v.assign(tf.reduce_sum(x)))
    w.assign_add(1.0)


def _by_branch(x, v, w):
    tf.cond(tf.reduce_sum(x) > 0, lambda: v.assign_add(1.0), lambda: v.assign_add(2.0))
    tf.cond(w > 0, lambda: w.assign_add(1.0), lambda: w.assign_add(2.0))


def _value_of_a_branch(x, v, w):
    v.assign(tf.cond(tf.reduce_sum(x) > 0, lambda: 1.0, lambda: 2.0))
    w.assign(tf.cond(w > 0, lambda: 1.0, lambda: 2.0))


def _in_loop(x, v, w):
    def body(i, total):
        w.assign_add(1.0)
        return i + 1, total + tf.reduce_sum(x)

    _, total = tf.while_loop(lambda i, _: i < 3, body, [tf.constant(0), tf.constant(0.0)])
    v.assign(total)


def _loop_as_long_as_the_batch(x, v, w):
    tf.while_loop(lambda i: i < tf.shape(x)[0], lambda i: (i + 0 * tf.cast(v.assign_add(1.0), tf.int32) + 1,), [0])
    w.assign(2.0 * w)


def _carried_through_a_loop(x, v, w):
    """What depends on samples comes to the assigned value in the second turn only."""

    def body(i, first, second):
        return i + 1, tf.reduce_sum(x), first

    _, _, second = tf.while_loop(lambda i, *_: i < 3, body, [tf.constant(0), tf.constant(0.0), tf.constant(0.0)])
    v.assign(second)
    w.assign(w + 1.0)


def _in_function(x, v, w):
    @tf.function
    def inner(value, count):
        v.assign(0.9 * v + 0.1 * value)
        w.assign_add(count)
        return value, count

    value, count = inner(tf.reduce_mean(x), tf.constant(1.0))
    del value, count


def _of_a_function(x, v, w):
    """Of two outputs one depends on samples."""

    @tf.function
    def inner(value, count):
        return value * 2.0, count * 2.0

    value, count = inner(tf.reduce_mean(x), tf.constant(1.0))
    v.assign(value)
    w.assign(count)


def _through_a_variable(x, v, w):
    v.assign(tf.reduce_mean(x))
    w.assign(2.0 * v)


def _of_the_content_before(x, v, w):
    w.assign(2.0 * v)
    v.assign(tf.reduce_mean(x))


def _both(x, v, w):
    v.assign(0.9 * v + tf.reduce_mean(x))
    v.assign(v + 1.0)
    w.assign_add(tf.cast(tf.size(x), tf.float32))


def _cut(x, v, w):
    v.assign_add(tf.identity(tf.reduce_sum(x), name=ZERO_WITHOUT_SAMPLES))
    w.assign_add(tf.ensure_shape(tf.numpy_function(lambda a: a, [tf.reduce_sum(x)], tf.float32, name=COLLECTIVE), ()))


def _beside_a_custom_gradient(x, v, w):
    @tf.custom_gradient
    def both(a, b):
        return (a + 0.0, b + 0.0), lambda da, db: (da, db)

    first, second = both(tf.reduce_sum(x), tf.constant(1.0))
    v.assign(first)
    w.assign(second)


@pytest.mark.parametrize(
    ("step", "first", "second"),
    [
        (_in_branch, {"samples", "steps"}, {"steps"}),
        (_by_branch, {"samples"}, {"steps"}),
        (_value_of_a_branch, {"samples"}, {"steps"}),
        (_in_loop, {"samples"}, {"steps"}),
        (_loop_as_long_as_the_batch, {"samples"}, {"steps"}),
        (_carried_through_a_loop, {"samples"}, {"steps"}),
        (_in_function, {"samples"}, {"steps"}),
        (_of_a_function, {"samples"}, {"steps"}),
        (_through_a_variable, {"samples"}, {"samples"}),
        (_of_the_content_before, {"samples"}, {"samples"}),
        (_both, {"samples", "steps"}, {"samples"}),
        (_cut, {"steps"}, {"steps"}),
        (_beside_a_custom_gradient, {"samples"}, {"steps"}),
        (lambda x, v, w: None, set(), set()),
    ],
)
def test_what_changes_a_variable(step, first, second):
    assert _changes(step, backwards=False) == [first, second]
    assert _changes(step, backwards=True) == [first, second]
