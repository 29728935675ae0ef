"""Turns: who stands still meanwhile, who is disturbed, and what is said of a variant that ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import psutil
import pytest

from hvdkit.bench import jobs, report
from hvdkit.errors import HvdkitError, LaunchError

pytestmark = pytest.mark.alone

# A rank that counts as fast as it can, also when it has no turn.
_COUNTS = """
import os, sys, threading, time
from hvdkit.bench import station
folder, rank, count = os.environ["HVDKIT_BENCH_FOLDER"], int(sys.argv[1]), 0
def always():
    global count
    while True:
        count += 1
        if count % 1000 == 0:
            open(f"{folder}/count-{rank}.part", "w").write(str(count))
            os.replace(f"{folder}/count-{rank}.part", f"{folder}/count-{rank}")
threading.Thread(target=always, daemon=True).start()
def measure(steps):
    begin = time.perf_counter()
    time.sleep(steps * 0.01)
    return time.perf_counter() - begin, 0.5
station.serve(folder, rank, measure)
"""
_BOTH = (
    "import subprocess, sys\nps = [subprocess.Popen([sys.executable, '-c', sys.argv[1], str(r)]) for r in range(2)]\n"
)
_BOTH += "sys.exit(max(p.wait() for p in ps))"


def _variant(name: str, program: str = _COUNTS) -> jobs.Variant:
    return jobs.Variant(name, 2, 8, (sys.executable, "-c", _BOTH, program))


def test_turns_are_counted_in_samples_of_all_ranks():
    said: list[str] = []
    turns = jobs.interleave([_variant("a"), _variant("b")], 2, 0.3, said.append)
    assert said == ["starting a", "starting b", "round 1 of 2", "round 2 of 2"]
    for turn in turns["a"] + turns["b"]:
        assert 2 * 8 / 0.01 / 3 < turn.rate <= 2 * 8 / 0.01  # a step of at least 10 ms, 8 samples on each of 2 ranks
        assert turn.cpu == pytest.approx(1000 * 0.5 * 2 / (30 * 16), rel=0.5)
        assert turn.peak_bytes > 2**20


def test_who_has_no_turn_stands_still(tmp_path):
    job, count = jobs.Job(_variant("a"), tmp_path / "a"), tmp_path / "a/count-0"
    try:
        job.turn(5)
        before, deadline = None, time.monotonic() + 30
        while (now := count.read_text()) != before:  # a thread that waits for a core stops when it gets one
            assert time.monotonic() < deadline, "still counting"
            before = now
            time.sleep(0.5)
        job.turn(5)
        assert int(count.read_text()) > int(before)
    finally:
        job.end()
    assert job._process.returncode is not None


def test_a_turn_knows_who_else_used_the_cores(tmp_path):
    quiet = _COUNTS.replace("count += 1\n", "time.sleep(1)\n")
    job = jobs.Job(_variant("a", quiet), tmp_path / "a")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert job.turn(100).foreign > 0.3 / psutil.cpu_count()
    finally:
        busy.kill()
        busy.wait()
        job.end()


@pytest.mark.parametrize(
    ("foreign", "counts"), [([0.0], 0.0), ([0.5, 0.04, 0.0], 0.04), ([0.5, 0.4, 0.2, 0.3, 0.0], 0.2)]
)
def test_a_disturbed_turn_is_repeated_and_then_the_quietest_counts(foreign, counts):
    class Disturbed:
        turns = iter([jobs.Turn(1.0, 1.0, 1, share) for share in foreign])

        def turn(self, steps: int) -> jobs.Turn:
            return next(self.turns)

    assert jobs._quiet_turn(Disturbed(), 5).foreign == counts


def test_a_variant_that_ends_is_named_with_its_words():
    with pytest.raises(HvdkitError, match=r"'broken' ended with 1(.|\n)*ZeroDivisionError"):
        jobs.interleave([_variant("broken", "1 / 0")], 1, 0.1)


def test_report(tmp_path):
    slow, fast = (jobs.Turn(rate, 2.0, 2**20 * size, 0.0) for rate, size in ((50.0, 3), (100.0, 1)))
    loud = jobs.Turn(90.0, 2.0, 2**20, 0.5)
    turns = {"slow": [slow, slow, slow], "fast": [fast, fast, loud]}
    rows = report.rows({"workload": "W1"}, turns, "fast")
    assert [r["to fast"] for r in rows] == ["0.500", "1.000"]
    assert rows[0]["peak memory"] == "+2 MiB"
    assert [r["disturbed"] for r in rows] == ["", 1]
    assert len({len(line) for line in report.table(rows).splitlines()}) == 1
    report.save(tmp_path / "all.json", {"rounds": 3}, rows, {"W1": turns})
    saved = json.loads((tmp_path / "all.json").read_text())
    assert saved["turns"]["W1"]["fast"][2]["foreign"] == 0.5
    assert saved["versions"]["python"]


def test_an_engine_that_is_not_there_is_named():
    from hvdkit.bench.engines import here

    with pytest.raises(LaunchError, match=r"cannot be started here with nccl.*mpi, gloo"):
        here("nccl")
