"""``hvdkit bench`` on real ranks, as short as it can be: what it says, not how fast it is."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import psutil
import pytest

from hvdkit.utils import env
from tests.machine import needs

pytestmark = [pytest.mark.dist, pytest.mark.alone]


def _bench(*words: str) -> str:
    command = [sys.executable, "-m", "hvdkit", "bench", *words]
    done = subprocess.run(command, env=env.child(), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_step(tmp_path):
    _bench("step", "--workloads", "W1", "--rounds", "1", "--seconds", "0.1", "--engines", "gloo",
           "--json", str(tmp_path / "step.json"))  # fmt: skip
    saved = json.loads((tmp_path / "step.json").read_text())
    assert [row["variant"] for row in saved["rows"]] == ["no exchange", "hvdkit gloo"]
    (turn,) = saved["turns"]["W1"]["hvdkit gloo"]
    assert turn["rate"] > 1
    assert turn["peak_bytes"] > 50 * 2**20


def test_step_among_ranks_that_are_launched_already(tmp_path):
    saved = tmp_path / "step.json"
    words = (
        "-m",
        "hvdkit",
        "bench",
        "step",
        "--workloads",
        "W1",
        "--rounds",
        "1",
        "--seconds",
        "0.1",
        "--json",
        str(saved),
    )
    command = [sys.executable, "-m", "hvdkit", "run", "-np", "2", "--launcher", "horovodrun", *words]
    done = subprocess.run(command, env=env.child(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| W1 ") == 2  # said once: no exchange, and hvdkit
    assert {row["ranks"] for row in json.loads(saved.read_text())["rows"]} == {2}


def test_scaling():
    said = _bench("scaling", "--workloads", "W1", "--rounds", "1", "--seconds", "0.1", "-np", "1")
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in said.splitlines()[2:]]
    assert rows == [["W1", "1", "no exchange"], ["W1", "1", "hvdkit"]]


def test_allreduce():
    needs("mpirun", "mpi")
    needs("horovodrun")
    said = _bench("allreduce", "-np", "2", "--rounds", "2", "--engines", "mpi,gloo")
    assert said.count("| 40 MB") == 2
    assert said.count("raw mpi4py, us") == 1  # beside the engine that an MPI started


def test_ended_it_leaves_nobody_behind():
    command = [sys.executable, "-m", "hvdkit", "bench", "step", "--workloads", "W1", "--engines", "gloo"]
    bench = subprocess.Popen(command, env=env.child(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started: set[psutil.Process] = set()
    deadline = time.monotonic() + 200
    # Until there is a process that stands still, and another variant is being started.
    while not any(_state(process) == psutil.STATUS_STOPPED for process in started):
        assert time.monotonic() < deadline
        assert bench.poll() is None
        started |= set(psutil.Process(bench.pid).children(recursive=True))
        time.sleep(0.1)
    bench.terminate()
    assert bench.wait(60) == 143
    gone, alive = psutil.wait_procs(started, timeout=30)
    assert gone
    assert not alive


def _state(process: psutil.Process) -> str | None:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return None
