"""What comes back through ``hvd.allgather``: with gradient="sum", N ranks with a contrastive loss are one process."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.comm import gather_cases as cases
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]
WORLDS = [("gloo", 2), ("mpi", 3)]


@functools.cache
def _on_ranks(engine: str, ranks: int) -> list[dict]:
    return run_ranks(ranks, cases.all_cases, **world(engine)).values


@functools.cache
def _alone() -> dict:
    hvd.init()
    return cases.all_cases()


def _distance(some: list, others: list) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
@pytest.mark.parametrize("usage", ["own rows", "all rows"])
@pytest.mark.parametrize("where", ["eager", "graph", "fit"])
def test_a_contrastive_loss_is_that_of_one_process(engine, ranks, usage, where):
    for rank in _on_ranks(engine, ranks):
        assert _distance(rank[usage][where], _alone()[usage][where]) < 1e-6
        assert _distance(rank[usage]["average"], _alone()[usage]["average"]) > 1e-3, "the mean would have done"


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_the_mean_is_for_gradients_that_are_summed(engine, ranks):
    """Each rank has the whole loss, and the optimizer's op is a sum."""
    for rank in _on_ranks(engine, ranks):
        assert _distance(rank["average, summed"], _alone()["average, summed"]) < 1e-6


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_the_gradient_of_uneven_rows(engine, ranks):
    everyones, begin = _on_ranks(engine, ranks), 0
    for number, rank in enumerate(everyones):
        places = np.arange(begin + 1, begin + number + 2, dtype="float32")[:, None] * np.ones((1, 2), "float32")
        begin += number + 1
        total = sum(range(1, ranks + 1)) * places
        np.testing.assert_allclose(rank["uneven"]["sum"], total)
        np.testing.assert_allclose(rank["uneven"]["average"], total / ranks, rtol=1e-6)
        np.testing.assert_array_equal(rank["uneven"]["None"], rank["uneven"]["average"])
        for dtype, found in rank["halves"].items():
            np.testing.assert_allclose(found, total, rtol=2e-2 if "16" in dtype else 1e-6, err_msg=dtype)


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_what_has_no_gradient_is_gathered_as_ever(engine, ranks):
    for rank in _on_ranks(engine, ranks):
        assert rank["numbers"] == rank["whole"] == [0, 1] * ranks
        assert "`gradient` must be" in rank["error"] and "gradient='mean'" in rank["error"]


def test_in_a_world_of_one_both_are_the_same():
    alone = _alone()
    np.testing.assert_array_equal(alone["uneven"]["sum"], [[1, 1]])
    np.testing.assert_array_equal(alone["uneven"]["None"], [[1, 1]])
    assert "`gradient` must be" in alone["error"]
