"""Ranks that wait for something else use no core: the model's threads need it. Also not while a timeline is to come."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.alone]


def busiest_thread() -> float:
    """The share of a core that this process' busiest thread takes, while nothing is to be done."""
    time.sleep(0.5)
    before, begin = _ticks(), time.monotonic()
    time.sleep(3)
    after, seconds = _ticks(), time.monotonic() - begin
    return max(after[thread] - before.get(thread, 0) for thread in after) / 100 / seconds


def _ticks() -> dict[str, int]:
    ticks = {}
    for path in Path("/proc/self/task").iterdir():
        words = (path / "stat").read_text().rpartition(")")[2].split()
        ticks[path.name] = int(words[11]) + int(words[12])
    return ticks


# Not Horovod over MPI: its thread waits inside MPI, which spins.
@pytest.mark.parametrize("which", ["gloo", "mpi"])
def test_waiting_takes_no_core(which):
    # Horovod's own thread wakes every millisecond: a tenth to a third of a core.
    how = world(which)
    how["environ"] = {**how.get("environ", {}), "HOROVOD_TIMELINE": "DYNAMIC"}
    assert max(run_ranks(2, busiest_thread, **how).values) < 0.7


def without_a_word_at_the_start() -> str:
    try:
        hvd.start_timeline("timeline.json")
    except hvd.errors.UsageError as error:
        return str(error)
    return "nothing"


def test_a_timeline_that_cannot_start_says_what_to_set():
    for said in run_ranks(2, without_a_word_at_the_start).values:
        assert "HOROVOD_TIMELINE=DYNAMIC" in said
