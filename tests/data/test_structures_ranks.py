"""Data of any kind in any structure on ranks: together they are given what plain Keras would train on."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.chaos.common import count
from tests.data import structure_cases as cases
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]
WORLDS = [("gloo", 2), ("mpi", 3)]


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory):
    @functools.cache
    def run(engine: str, ranks: int) -> list[dict]:
        folder = str(tmp_path_factory.mktemp(engine))
        return run_ranks(ranks, cases.everything, count(14, 200), folder, timeout=900, **world(engine)).values

    return run


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
@pytest.mark.timeout(1000)
def test_all_ranks_together_are_given_what_keras_would_train_on(on_ranks, engine, ranks):
    for rank in on_ranks(engine, ranks):
        assert rank["examples"] >= count(14, 200)
        assert rank["without"], "no example in which a rank has no sample"


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_a_model_of_nested_inputs_of_every_kind_is_that_of_one_process(on_ranks, engine, ranks):
    hvd.init()
    alone = cases.trained(2, ranks)
    for rank in on_ranks(engine, ranks):
        np.testing.assert_allclose(rank["trained"]["loss"], alone["loss"], rtol=2e-5)
        for mine, its in zip(rank["trained"]["weights"], alone["weights"], strict=True):
            np.testing.assert_allclose(mine, its, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_class_weights_of_classes_that_other_ranks_have(on_ranks, engine, ranks):
    for number, rank in enumerate(on_ranks(engine, ranks)):
        found = rank["classes"]
        assert found["texts"] == [number + 2.0]
        assert f"the classes {ranks}, which no sample has, and none for 0" in found["counted from 1"]
        assert "do not agree on their class weights" in found["other weights"]
        assert "`class_weight[0]` must be a number" in found["wrong on one"]
        for name in ("no classes on one", "balanced, no classes on one"):
            assert "Class weights need `y` as whole numbers" in found[name]


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_files_that_one_rank_cannot_train_on_are_an_error_on_all(on_ranks, engine, ranks):
    for rank in on_ranks(engine, ranks):
        assert "do not agree on what their files hold" in rank["damaged"]["own files"]
        assert "record-0.tfrecord" in rank["damaged"]["damaged on rank 0"]
        assert "in record 1, at byte 17, the length" in rank["damaged"]["damaged on rank 0"]
