"""Every collective against what it should give, on 2 and 3 ranks, with each engine."""

from __future__ import annotations

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]


def collectives() -> dict:
    import tensorflow as tf

    rank, size = hvd.rank(), hvd.size()
    out = {"rank": rank, "size": size, "local": [hvd.local_rank(), hvd.local_size()]}
    out["cross"] = [hvd.cross_rank(), hvd.cross_size()]
    out["probes"] = [hvd.gloo_built(), hvd.gloo_enabled(), hvd.mpi_enabled(), hvd.nccl_built(), hvd.cuda_built()]
    mine = np.arange(4, dtype=np.float32) * (rank + 1)
    out["ops"] = {op.name: hvd.allreduce(mine, op=op) for op in (hvd.Average, hvd.Sum, hvd.Min, hvd.Max, hvd.Product)}
    out["dtypes"] = {
        dtype: hvd.allreduce(np.array([rank + 1, 2]).astype(dtype), op=hvd.Sum)
        for dtype in ("uint8", "int8", "int32", "int64", "float16", "float32", "float64")
    }
    out["half"] = hvd.allreduce(np.array([40000], np.float16))
    out["scaled"] = hvd.allreduce(mine, op=hvd.Sum, prescale_factor=2.0, postscale_factor=0.25)
    out["scalar"] = hvd.allreduce(float(rank), op=hvd.Sum)
    out["grouped"] = hvd.grouped_allreduce([mine, np.array([[rank]])], op=hvd.Sum)
    out["gathered"] = hvd.allgather(np.full((rank + 1, 2), rank))
    out["gathered_scalar"] = hvd.allgather(rank)
    out["broadcast"] = hvd.broadcast(mine, root_rank=size - 1)
    out["alltoall"] = hvd.alltoall(np.arange(size) + 10 * rank)
    out["alltoall_splits"] = hvd.alltoall(np.arange(size + 1) + 10 * rank, splits=[2] + [1] * (size - 1))
    out["reducescatter"] = hvd.reducescatter(np.arange(2.0 * size + 1), op=hvd.Sum)
    out["reducescatter_mean"] = hvd.reducescatter(np.arange(2.0 * size) * (rank + 1))
    out["objects"] = hvd.allgather_object({"rank": rank, "list": [None, "ü", 1.5], "array": np.arange(rank)})
    out["object"] = hvd.broadcast_object([rank, {"x": np.eye(2) * rank}], root_rank=1)

    @tf.function
    def graph(x):
        return hvd.allreduce(x, op=hvd.Sum), hvd.allgather(x)

    @tf.function
    def branches(x):
        total = tf.constant(0.0)
        for _ in tf.range(3):
            total += hvd.allreduce(x, op=hvd.Sum) if total < 2.5 * size else hvd.allgather(x[None])[-1]
        return total

    out["branches"] = float(branches(tf.constant(1.0)))
    with tf.GradientTape() as tape:
        w = tf.constant(mine)
        tape.watch(w)
        moved = [hvd.allreduce(w), hvd.allgather(w), hvd.broadcast(w, 0), hvd.alltoall(tf.tile(w[None], [size, 1]))]
        total = tf.add_n([tf.reduce_sum(m) * (rank + 1.0) for m in moved])
    out["gradient"] = np.asarray(tape.gradient(total, w))
    out["empty"] = [
        hvd.allreduce(np.zeros((0, 2))),
        hvd.allgather(np.zeros((0, 2))),
        hvd.allgather(np.zeros((rank, 0))),
    ]
    out["large"] = hvd.allreduce(np.full(3_000_001, rank + 1.0, np.float32))[[0, 1_500_000, -1]]
    out["graph"] = [np.asarray(t) for t in graph(tf.constant(mine))]
    kinds = [hvd.allreduce(tf.constant(mine)), hvd.allreduce(tf.Variable(mine)), hvd.allreduce(mine)]
    out["kinds"] = [tf.is_tensor(kinds[0]), tf.is_tensor(kinds[1]), isinstance(kinds[2], np.ndarray)]
    variables = [tf.Variable(mine), tf.Variable(tf.cast(rank, tf.bfloat16)), tf.Variable([rank == 1, False])]
    hvd.broadcast_variables(variables, root_rank=1)
    out["variables"] = [np.asarray(tf.cast(v, tf.float32)) for v in variables]
    moved = [hvd.broadcast(tf.constant([1.5, rank], tf.bfloat16)), hvd.allgather(tf.constant(rank, tf.bfloat16))]
    out["bfloat16"] = [[t.dtype.name, np.asarray(tf.cast(t, tf.float32))] for t in moved]
    knot: list = []
    knot.append(knot)
    out["errors"] = [
        _message(lambda: hvd.broadcast(mine, root_rank=size)),
        _message(lambda: hvd.allreduce(mine, op="mean")),
        _message(lambda: hvd.allreduce(tf.cast(mine, tf.bfloat16))),
        _message(lambda: hvd.allgather_object(object() if rank == 1 else 1)),  # only one rank's cannot be sent
        _message(lambda: hvd.allgather_object({1: object})),
        _message(lambda: hvd.allgather_object(knot if rank == 0 else 1)),
    ]
    hvd.barrier()
    return out


def _message(call) -> str:
    try:
        call()
    except (TypeError, ValueError) as error:
        return str(error)
    return "no error"


@pytest.fixture(scope="module", params=[(2, "gloo"), (3, "gloo"), (2, "horovod-mpi"), (2, "mpi"), (3, "mpi")], ids=str)
def ranks(request):
    n, name = request.param
    return name, run_ranks(n, collectives, **world(name)).values


def test_who_am_i(ranks):
    name, values = ranks
    n = len(values)
    for rank, out in enumerate(values):
        assert (out["rank"], out["size"]) == (rank, n)
        assert out["local"] == [rank, n] and out["cross"] == [0, 1]
        gloo = name == "gloo"
        assert out["probes"] == [True, gloo, not gloo, False, False]


def test_reductions(ranks):
    _, values = ranks
    n = len(values)
    base, factors = np.arange(4, dtype=np.float32), np.arange(1, n + 1)
    expected = {
        "AVERAGE": base * factors.mean(), "SUM": base * factors.sum(), "MIN": base, "MAX": base * n,
        "PRODUCT": base**n * factors.prod(),
    }  # fmt: skip
    for out in values:
        for op, want in expected.items():
            np.testing.assert_allclose(out["ops"][op], want, rtol=1e-6, err_msg=op)
        for dtype, got in out["dtypes"].items():
            assert got.dtype == dtype and got.tolist() == [factors.sum(), 2 * n]
        np.testing.assert_allclose(out["scaled"], base * factors.sum() / 2, rtol=1e-6)
        assert out["half"].tolist() == [40000], "a sum of halves would be inf"
        assert out["scalar"].shape == () and out["scalar"] == sum(range(n))
        np.testing.assert_allclose(out["grouped"][0], expected["SUM"])
        assert out["grouped"][1].tolist() == [[sum(range(n))]]
        np.testing.assert_allclose(out["graph"][0], expected["SUM"])
        np.testing.assert_allclose(out["graph"][1], np.concatenate([base * f for f in factors]))
        assert out["branches"] == 3 * n
        mean = (n + 1) / 2  # of allreduce, of allgather (Horovod averages), of a broadcast at its root, of all-to-all
        at_root = mean if out["rank"] == 0 else 0
        np.testing.assert_allclose(out["gradient"], [mean + mean + at_root + factors.sum()] * 4)
        assert [a.shape for a in out["empty"]] == [(0, 2), (0, 2), (sum(range(n)), 0)]
        np.testing.assert_allclose(out["large"], [mean] * 3)
        assert out["kinds"] == [True, True, True]


def test_movers(ranks):
    _, values = ranks
    n = len(values)
    for rank, out in enumerate(values):
        assert out["gathered"].tolist() == [[r, r] for r in range(n) for _ in range(r + 1)]
        assert out["gathered_scalar"].tolist() == list(range(n))
        np.testing.assert_array_equal(out["broadcast"], np.arange(4, dtype=np.float32) * n)
        assert out["alltoall"].tolist() == [rank + 10 * r for r in range(n)]
        received, counts = out["alltoall_splits"]
        mine = [0, 1] if rank == 0 else [rank + 1]
        assert received.tolist() == [i + 10 * r for r in range(n) for i in mine]
        assert counts.tolist() == [len(mine)] * n
        first = [2 * rank + (1 if rank else 0) + i for i in range(2 + (rank == 0))]
        np.testing.assert_allclose(out["reducescatter"], np.array(first) * n)
        np.testing.assert_allclose(out["reducescatter_mean"], np.array([2 * rank, 2 * rank + 1]) * (n + 1) / 2)
        floats, scalar, bools = out["variables"]
        (kind, sent), (_, gathered) = out["bfloat16"]
        assert kind == "bfloat16" and sent.tolist() == [1.5, 0] and gathered.tolist() == list(range(n))
        assert floats.tolist() == [0, 2, 4, 6] and scalar == 1 and bools.tolist() == [1, 0]


def test_objects(ranks):
    _, values = ranks
    for out in values:
        for rank, (number, item) in enumerate(zip(range(len(values)), out["objects"], strict=True)):
            assert item["rank"] == number and item["list"] == [None, "ü", 1.5] and len(item["array"]) == rank
        assert out["object"][0] == 1 and out["object"][1]["x"].tolist() == [[1, 0], [0, 1]]


def test_errors_are_the_same_on_every_rank(ranks):
    _, values = ranks
    for out in values:
        root, op, bfloat16, unsendable, key, knot = out["errors"]
        assert "root_rank must be between 0 and" in root
        assert "hvd.Average, hvd.Sum" in op and "'mean'" in op
        assert "bfloat16" in bfloat16 and "float32" in bfloat16
        assert "rank 1" in unsendable and "never pickled" in unsendable
        assert "object[1] is a type" in key
        assert "rank 0" in knot and "recursion" in knot
