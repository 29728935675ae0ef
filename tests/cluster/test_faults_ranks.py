"""What a user is told when a host or a rank of another host is gone, and that nothing is left on any of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.hosts import Cluster, why_not
from tests.machine import launcher_of

pytestmark = [pytest.mark.dist, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
ROOT = Path(__file__).resolve().parents[2]
JOB = Path(__file__).with_name("endless_job.py")
LONG = os.environ.get("HVDKIT_CHAOS") == "long"
DEADLINE = 10
LAUNCHERS = {"mpi": "mpirun", "horovod": "horovodrun"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), 3) as hosts:
        yield hosts


def ranks_on(cluster: Cluster, host: str) -> list[int]:
    """The processes of the script itself, without their small parents."""
    rank = [sys.executable, str(JOB)]
    return [number for number, line in cluster.processes(host).items() if line.split()[:2] == rank]


def kill(cluster: Cluster) -> None:
    for number in ranks_on(cluster, "host2"):
        os.kill(number, signal.SIGKILL)


def stop(cluster: Cluster) -> None:
    for number in ranks_on(cluster, "host2"):
        os.kill(number, signal.SIGSTOP)


# What is done to host2, how it is undone, and what the user is told.
FAULTS = {
    "killed": (kill, lambda cluster: None, ["rank 1", "host2", "SIGKILL"]),
    "stopped": (stop, lambda cluster: None, ["rank 1 on host2"]),
    "power": (lambda c: c.power_off("host2"), lambda c: c.boot("host2"), ["host2 (rank 1) cannot be reached"]),
    "cable": (
        lambda c: c.cable("host2", plugged=False),
        lambda c: c.cable("host2", plugged=True),
        ["host2 (rank 1) cannot be reached"],
    ),
    "silence": (
        lambda c: c.silence("host2", on=True),
        lambda c: c.silence("host2", on=False),
        ["host2 (rank 1) cannot be reached"],
    ),
}
CASES = [("mpi", "power"), ("mpi", "stopped"), ("horovod", "killed")]
CASES = [(engine, fault) for engine in LAUNCHERS for fault in FAULTS] if LONG else CASES


@pytest.mark.parametrize(("engine", "fault"), CASES)
def test_a_fault_is_told_and_nothing_is_left(cluster, tmp_path, engine, fault):
    launcher_of(LAUNCHERS[engine], engine)
    happens, ends, told = FAULTS[fault]
    limits = {
        "HVDKIT_DEADLINE": str(DEADLINE),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(DEADLINE),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    run = [sys.executable, "-m", "hvdkit", "run", "-H", "host1:1,host2:1", "--launcher", LAUNCHERS[engine]]
    begun = tmp_path / "begun"
    words = [*run, "--engine", engine, "--network-interfaces", "eth0", str(JOB), str(begun)]
    argv = cluster.command("host0", words, str(tmp_path))
    with open(tmp_path / "output", "w+", encoding="utf-8") as output:
        job = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, "PYTHONPATH": str(ROOT), **limits},
        )  # fmt: skip
        try:
            until = time.monotonic() + 120
            while not begun.exists() and job.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            assert begun.exists(), (tmp_path / "output").read_text()
            happened = time.monotonic()
            happens(cluster)
            code = job.wait(DEADLINE + 90)
            took = time.monotonic() - happened
        finally:
            job.kill()
            ends(cluster)
        output.seek(0)
        said = output.read()
    print(f"{engine}, {fault}: {took:.0f} s, exit code {code}")
    assert code != 0 and took < DEADLINE + 60, said
    assert all(words in said for words in told), said
    until = time.monotonic() + DEADLINE + 30
    while (left := left_on(cluster)) and time.monotonic() < until:
        time.sleep(0.5)
    assert not left, "something is left on the hosts"


def left_on(cluster: Cluster) -> list[str]:
    """What still runs of the job on all hosts."""
    return [line for host in cluster.hosts for line in cluster.processes(host).values() if JOB.name in line]
