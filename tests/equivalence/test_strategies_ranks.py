"""Replicas inside a process, Horovod across processes: P processes x N replicas = 1 process with the whole batch."""

from __future__ import annotations

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests import machine
from tests.equivalence import strategy_cases as cases

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]
NAMES = list(cases.CASES)


@pytest.fixture(scope="module")
def plain():
    hvd.init()
    return cases.train_plain(NAMES)


@pytest.fixture(scope="module")
def one_by_two():
    return run_ranks(1, cases.train_on_replicas, NAMES, None, timeout=600).values


@pytest.fixture(scope="module")
def two_by_two():
    return run_ranks(2, cases.train_on_replicas, NAMES, ["CPU:0", "CPU:1"], timeout=600).values


@pytest.fixture(scope="module")
def two_by_two_mpi():
    return run_ranks(2, cases.train_on_replicas, NAMES[::3], ["CPU:0", "CPU:1"], **machine.world("mpi")).values


def test_wrong_use_is_refused():
    (alone,) = run_ranks(1, cases.say_what_is_refused).values
    assert "no device 'CPU:7' here. Known: CPU:0, CPU:1" in alone["no such device"]
    assert "each device once" in alone["a device twice"]
    assert "created outside the strategy" in alone["an optimizer made outside"]
    assert "On rank 0, the replicas of one process have different values of apart" in alone["replicas that differ"]
    for rank, messages in enumerate(run_ranks(2, cases.say_what_is_refused).values):
        assert messages["several processes, mirrored"].startswith(f"[rank {rank}]")
        assert "hvd.strategies.mirrored_per_host()" in messages["several processes, mirrored"]
        assert "start one process per host" in messages["several processes, one host"]


def test_horovod_runs_on_a_device_of_its_process():
    assert run_ranks(2, cases.horovod_operations).values == [["CPU:1"]] * 2  # one bucket


@pytest.mark.parametrize(
    ("world", "name"),
    [*((w, n) for w in ("one_by_two", "two_by_two") for n in NAMES), *(("two_by_two_mpi", n) for n in NAMES[::3])],
)
@pytest.mark.timeout(900)
def test_replicas_are_one_process(name, world, plain, request):
    ranks = request.getfixturevalue(world)
    want = plain[name]
    for rank in ranks:
        got = rank[name]
        assert len(got["weights"]) == len(want["weights"])
        for a, b in zip(got["weights"], want["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
        assert got["scale"] == want["scale"]
        np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)
        for first, second in got["replicas"]:
            assert first.tobytes() == second.tobytes(), "the replicas of one process differ"
    assert len({rank[name]["digest"] for rank in ranks}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_one_reduction_per_process_and_update(name, two_by_two):
    skipped = 1 if name == "lossscale-nan" else 0  # reduced, found not finite, and skipped
    k = 2 if "k2" in name else 1
    updates = (cases.STEPS - ("nan" in name)) // k
    assert {rank[name]["reductions"] for rank in two_by_two} == {updates + skipped}
