"""Every registered reducer keeps the contract of `hvdkit.grads.reducers.Reducer`: a new one is tested too."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.grads.reducers import REDUCERS
from hvdkit.testing import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]

# How far from the exact mean a reducer may be, relative to the largest value in the tensor.
TOLERANCE = {"none": 1e-6, "fp16": 2e-3}
SHAPES = {"matrix": (7, 5), "vector": (33,), "scalar": (), "empty": (0, 3), "kernel": (3, 3, 2, 4)}
DTYPES = ("float32", "float64", "float16")


def _gradients(rank: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rank)
    return {f"{s} {d}": rng.normal(size=shape).astype(d) for s, shape in SHAPES.items() for d in DTYPES}


def reduce_all(names: list) -> dict:
    import tensorflow as tf

    from hvdkit.comm.engine import ReduceOp
    from hvdkit.grads.options import ReduceOptions
    from hvdkit.grads.pipeline import GradientPipeline
    from hvdkit.grads.reducers import resolve_reducer

    out = {}
    for name in names:
        for op in (ReduceOp.AVERAGE, ReduceOp.SUM):
            for graph in (False, True):
                pipeline = GradientPipeline(ReduceOptions(resolve_reducer(name), op))
                mine = _gradients(hvd.rank())
                variables = [tf.Variable(g) for g in mine.values()]
                others = [tf.Variable(0.0), tf.Variable(tf.zeros([4, 3]))]

                def step(pipeline=pipeline, variables=variables, others=others):
                    rows, shape = tf.constant([0, hvd.rank()]), tf.constant([4, 3])
                    sparse = tf.IndexedSlices(tf.ones([2, 3]) * (hvd.rank() + 1), rows, shape)
                    gradients = [None, *(tf.convert_to_tensor(v) for v in variables), sparse]
                    return pipeline(gradients, [others[0], *variables, others[1]])

                none, *reduced, sparse = (tf.function(step) if graph else step)()
                out[f"{name} {op.value} {'graph' if graph else 'eager'}"] = {
                    "none stays none": none is None,
                    "reduced": [np.asarray(r) for r in reduced],
                    "sparse": [np.asarray(sparse.values), np.asarray(sparse.indices)],
                    "counted": int(pipeline.reductions),
                }
    return out


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(2, reduce_all, REDUCERS.names()).values


@pytest.mark.parametrize("name", REDUCERS.names())
@pytest.mark.parametrize("op", ["average", "sum"])
@pytest.mark.parametrize("how", ["eager", "graph"])
def test_contract(ranks, name, op, how):
    first, second = (rank[f"{name} {op} {how}"] for rank in ranks)
    gradients = [_gradients(0), _gradients(1)]
    for (key, mine), a, b in zip(gradients[0].items(), first["reduced"], second["reduced"], strict=True):
        assert a.dtype == mine.dtype and a.shape == mine.shape, key
        assert a.tobytes() == b.tobytes(), f"{key}: bitwise equal on every rank"
        exact = mine.astype("float64") + gradients[1][key].astype("float64")
        exact = exact / 2 if op == "average" else exact
        scale = max(1.0, np.abs(exact).max(initial=0.0))
        tolerance = max(TOLERANCE[name], 2e-3 if "float16" in key else 0.0)
        np.testing.assert_allclose(a.astype("float64"), exact, rtol=0, atol=tolerance * scale, err_msg=key)
    values, indices = first["sparse"]
    share = 0.5 if op == "average" else 1.0
    assert indices.tolist() == [0, 0, 0, 1], "sparse gradients are gathered, not densified"
    np.testing.assert_allclose(values, np.repeat([[1.0], [1.0], [2.0], [2.0]], 3, axis=1) * share)
    assert first["none stays none"] and first["counted"] == second["counted"] == 1


class _Doubling:
    """A user's own reducer: an instance with `reduce`."""

    def reduce(self, gradients, names, op, engine):
        assert all(isinstance(name, str) for name in names)
        return [2 * r for r in engine.allreduce(gradients, op, names)]


def trainings() -> dict:
    out = {}
    choices = {"none": None, "fp16": "fp16", "dict": {"name": "fp16"}, "own": _Doubling()}
    for name, compression in choices.items():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05), compression=compression), "mse")
        x = np.random.default_rng(hvd.rank()).normal(size=(64, 3)).astype("float32")
        model.fit(x, x.sum(1), batch_size=4, verbose=0, shuffle=False)
        out[name] = [np.asarray(w) for w in model.get_weights()]
    for name, op, sparse_as_dense in (("sum", hvd.Sum, False), ("dense", hvd.Average, True)):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((2,), dtype="int32"), keras.layers.Embedding(5, 3), keras.layers.Flatten()]
        )
        optimizer = keras.optimizers.SGD(0.1 if name == "dense" else 0.05)
        model.compile(hvd.DistributedOptimizer(optimizer, op=op, sparse_as_dense=sparse_as_dense), "mse")
        x = np.random.default_rng(hvd.rank()).integers(0, 5, size=(16, 2))
        model.fit(x, np.ones((16, 6)), batch_size=4, verbose=0, shuffle=False)
        out[name] = [np.asarray(w) for w in model.get_weights()]
    return out


def test_choices_of_compression_and_op():
    first, second = run_ranks(2, trainings).values
    for name in first:
        for a, b in zip(first[name], second[name], strict=True):
            assert a.tobytes() == b.tobytes()
    distance = lambda a, b: max(np.abs(x - y).max() for x, y in zip(first[a], first[b], strict=True))
    assert 0 < distance("none", "fp16") < 2e-3, "half precision on the wire, and close"
    assert distance("fp16", "dict") == 0 and distance("none", "own") > 1e-3
    # SGD is linear: the sum over 2 ranks at half the rate is the mean, and a dense gradient is a sparse one
    assert distance("sum", "dense") < 1e-6
