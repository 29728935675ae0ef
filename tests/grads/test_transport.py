"""What reducers are given: gradients, or the flat buckets that small ones travel in."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from hvdkit.comm.engine import ReduceOp
from hvdkit.comm.single import SingleEngine
from hvdkit.grads.transport import Transport

SHAPES = {"a": (3, 2), "b": (), "c": (100, 100), "d": (4,)}


class Recording:
    """A reducer that notes what it is given, and doubles it."""

    def __init__(self, flat: bool):
        self.flat, self.seen = flat, {}

    def reduce(self, gradients, names, op, engine):
        self.seen = {name: g.shape.as_list() for name, g in zip(names, gradients, strict=True)}
        return [2 * g for g in engine.allreduce(gradients, op, names)]


def _reduced(reducer, op=ReduceOp.AVERAGE, **limits) -> None:
    gradients = [tf.random.normal(shape) for shape in SHAPES.values()]
    out = Transport(SingleEngine(), **limits).reduce_by(reducer, gradients, list(SHAPES), op)
    for before, after in zip(gradients, out, strict=True):
        np.testing.assert_array_equal(after, 2 * before)


@pytest.mark.parametrize("limits", [{}, {"bucket_bytes": 0}, {"grouped": True}])
def test_by_default_a_reducer_sees_gradients(limits):
    reducer = Recording(flat=False)
    _reduced(reducer, **limits)
    assert reducer.seen == {name: list(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("flat", [False, True])
def test_a_reducer_calls_the_engine_as_engines_are_called(flat):
    class Scaling:
        def reduce(self, gradients, names, op, engine):
            scales = {"prescale": 4.0, "postscale": 0.5}
            return engine.allreduce(gradients, op, names, **scales, reusable=[False] * len(gradients))

    reducer = Scaling()
    reducer.flat = flat
    _reduced(reducer)


def test_a_flat_reducer_sees_buckets():
    reducer = Recording(flat=True)
    _reduced(reducer, bucket_bytes=100)
    assert reducer.seen == {"a.bucket": [11], "c": [100, 100]}
    _reduced(reducer, bucket_bytes=0)
    assert list(reducer.seen) == list(SHAPES), "0 packs nothing"
    _reduced(reducer, op=ReduceOp.ADASUM)
    assert list(reducer.seen) == list(SHAPES), "Adasum looks at each gradient by itself"
    _reduced(reducer, grouped=True)
    assert list(reducer.seen) == list(SHAPES), "groups move as the engine moves them"
