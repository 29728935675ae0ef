"""Both engines give alike what Horovod gives: gradients of collectives, factors, objects of any type."""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest

from hvdkit.comm.mpi import graph_order
from hvdkit.testing import run_ranks
from tests.comm import engine_cases as cases
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]
LONG = os.environ.get("HVDKIT_CHAOS") == "long"
STEPS = 2000 if LONG else 25
WORLDS = [(engine, ranks) for ranks in ((2, 3) if LONG else (3,)) for engine in ("gloo", "mpi")]
EVERY = pytest.mark.parametrize(("engine", "ranks"), WORLDS)


@functools.cache
def _values(engine: str, ranks: int) -> list[dict]:
    return run_ranks(ranks, cases.all_cases, STEPS, timeout=3000, **world(engine)).values


@EVERY
def test_a_gradient_taken_outside_of_the_function_is_the_one_taken_inside(engine, ranks):
    """Without an order, the MPI engine's ranks pair different collectives, or wait for one another until the end."""
    for rank, out in enumerate(_values(engine, ranks)):
        assert {name: case["same"] for name, case in out["gradients"].items()} == dict.fromkeys(out["gradients"], STEPS)
        for name, case in out["gradients"].items():
            other = _values({"gloo": "mpi", "mpi": "gloo"}[engine], ranks)[rank]
            np.testing.assert_allclose(case["gradient"], other["gradients"][name]["gradient"], rtol=1e-4, err_msg=name)


@EVERY
def test_a_constant_stays_what_it_is(engine, ranks):
    """TensorFlow makes it once; what is reduced in its place would be reduced again in the next step."""
    one_step = [ranks * value for value in (1, 2, 1, 2, 1, 2, 1, 2, 5, 1, 1, 2, 1, 1, 2)]
    for out in _values(engine, ranks):
        assert out["constants"] == [one_step] * 3


@EVERY
def test_reducescatter(engine, ranks):
    everyones = [out["reducescatter"] for out in _values(engine, ranks)]
    rows = [len(part) for part in np.array_split(np.arange(2 * ranks + 1), ranks)]
    upstream = 1.5 * np.repeat(np.arange(1.0, ranks + 1), rows)
    for rank, out in enumerate(everyones):
        for name, gradient in out["gradient"].items():  # as Horovod's: of a sum it is N times that of a mean
            np.testing.assert_allclose(gradient, upstream * (ranks if name.startswith("sum") else 1), err_msg=name)
        places = np.concatenate([[ranks] * 2 + [0] * (length - 2) for length in rows])
        np.testing.assert_array_equal(out["gathered rows"], places, "rows that are gathered have slices for a gradient")
        assert out["largest"].tolist() == [rank + ranks - 1]
        assert out["halves"].tolist() == [40000], "a sum of halves would be inf"
        np.testing.assert_array_equal(out["product"], np.float32([2, 3]) ** ranks * 2)
        scalar, tensor, bfloat16, adasum = out["errors"]
        assert "UsageError" in scalar and "no axes" in scalar and tensor == scalar
        assert "TypeError" in bfloat16 and "bfloat16 cannot be reduced" in bfloat16
        assert "no reducescatter by Adasum" in adasum


@EVERY
def test_factors_are_applied_as_horovod_applies_them(engine, ranks):
    """In float64 to whole numbers, which are cut off; in float32 to halves; in their own precision to all others."""
    everyones = [out["reducescatter"]["factors"] for out in _values(engine, ranks)]
    for name in everyones[0]:
        dtype, before, after = name.split()
        wide = {"float16": "float32", "float32": "float32"}.get(dtype, "float64")
        sent = (np.array([3, 4, 5, 6, 7, 8], wide) * np.dtype(wide).type(float(before))).astype(dtype)
        summed = np.sum([sent] * ranks, 0, dtype=dtype)
        expected = (summed.astype(wide) * np.dtype(wide).type(float(after))).astype(dtype)
        scattered = np.concatenate([out[name][0] for out in everyones])
        for received in (scattered, *everyones[0][name][1:]):
            assert received.dtype == dtype
            if dtype == "float16" and engine == "mpi":  # summed in float32, and rounded once
                np.testing.assert_allclose(received, expected, rtol=2e-3)
            else:
                np.testing.assert_array_equal(received, expected, err_msg=name)


@EVERY
def test_the_mean_of_slices(engine, ranks):
    for out in _values(engine, ranks):
        for dtype in ("int32", "int64", "float32", "float64"):
            kind, values, indices = out["slices"][dtype]
            assert kind == ("float64" if dtype.startswith("int") else dtype) and out["slices"][f"{dtype}, sum"] == dtype
            np.testing.assert_allclose(values, np.array([[1, 2]] * ranks) / ranks, rtol=1e-6)
            assert indices.tolist() == list(range(ranks))
            factors = [[2, 4]] if dtype.startswith("int") else [[3, 5]]
            np.testing.assert_array_equal(out["slices"][f"{dtype}, scaled"], factors * ranks)


@EVERY
def test_objects_and_bfloat16(engine, ranks):
    mean = (ranks + 1) / 2
    for rank, out in enumerate(_values(engine, ranks)):
        assert out["objects"] == [True] * 4
        said, after = out["a class"]
        assert said == _values(engine, ranks)[0]["a class"][0] and after == str(list(range(ranks)))
        assert "rank 0: A only_here.Colour came from another rank" in said and "rank 1:" not in said
        broadcast, gathered = out["bfloat16"]
        assert broadcast.tolist() == [mean * (rank == 1)] * 2 and gathered.tolist() == [mean] * 2


def test_tensorflow_has_its_own_function_again():
    from tensorflow.python.eager.polymorphic_function import atomic_function

    before = atomic_function.from_func_graph
    graph_order.install_ordering("a name")
    assert atomic_function.from_func_graph is not before
    graph_order.install_ordering("a name")
    graph_order.remove()
    graph_order.remove()
    assert atomic_function.from_func_graph is before
