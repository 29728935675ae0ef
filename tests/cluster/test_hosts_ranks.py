"""Training on several hosts, each with its own network, processes and memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import Cluster, why_not
from tests.machine import launcher_of

pytestmark = [pytest.mark.dist, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
ROOT = Path(__file__).resolve().parents[2]
JOB = Path(__file__).with_name("job.py")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), 3) as hosts:
        yield hosts


@pytest.mark.parametrize(
    ("launcher", "engine", "hosts"),
    [("mpirun", "mpi", "host0:1,host1:2,host2:1"), ("horovodrun", "horovod", "host1:1,host2:1")],
)
def test_training_on_several_hosts(cluster, tmp_path, launcher, engine, hosts):
    launcher_of(launcher, engine)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HVDKIT_TEST_ARRIVES": "here", "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = [sys.executable, "-m", "hvdkit", "run", "-H", hosts, "--launcher", launcher, "--engine", engine]
    words = [*run, "--network-interfaces", "eth0", "-x", "HVDKIT_TEST_ARRIVES", str(JOB), str(tmp_path / "out.json")]
    done = cluster.run("host0", words, env=environ, cwd=str(tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr
    reports = json.loads((tmp_path / "out.json").read_text())
    wanted = [name for host in hosts.split(",") for name in [host[:-2]] * int(host[-1])]
    assert [report["host"] for report in reports] == wanted
    assert len({report["weights"] for report in reports}) == 1, "the weights are those of one model"
    assert all(report["accuracy"] > 0.96 for report in reports)
    assert all(report["variable"] == "here" for report in reports)
    assert all(report["place"] == str(tmp_path) for report in reports)
