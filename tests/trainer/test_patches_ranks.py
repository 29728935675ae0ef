"""Keras is wrapped by ``hvd.init()`` alone, and is itself again after ``hvd.shutdown()``."""

from __future__ import annotations

import pytest

from hvdkit.testing import run_ranks
from tests.machine import world
from tests.trainer import patch_cases as cases


def _check(out: dict[str, list[str]], wrapped: set[str]) -> None:
    assert out["first shutdown"] == out["second shutdown"] == [], "an attribute is not what it was before init"
    assert out["first training"] == out["second training"] == [], "something is wrapped by what is made after init"
    assert {name.rpartition(".")[2] for name in out["first init"]} == wrapped
    assert out["first init"] == out["second init"]


ALWAYS = {"fit", "evaluate", "_enumerate_iterator", "__init__", "apply"}


def test_in_a_world_of_one():
    _check(cases.lifetimes(), ALWAYS)


@pytest.mark.dist
@pytest.mark.parametrize("engine", ["gloo", "mpi"])
def test_in_a_world_of_two(engine):
    ranks = {"predict", "make_train_function", "make_test_function", "_maybe_symbolic_build"}
    tape = {"gradient", "__enter__", "__exit__"}
    order = {"from_func_graph"} if engine == "mpi" else set()
    for out in run_ranks(2, cases.lifetimes, init=False, **world(engine)).values:
        _check(out, ALWAYS | ranks | tape | order)
