"""A new launcher is one file and one line, and so is a new engine: ``toy/toy.py``, and ``toy/sitecustomize.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.horovod_build.environments import REPOSITORY

FOLDER = Path(__file__).parent / "toy"
ENVIRON = {"PYTHONPATH": os.pathsep.join([str(FOLDER), str(REPOSITORY)])}
SEES = """
import re
from hvdkit import doctor, engines
from hvdkit.app import config
from hvdkit.bench.engines import launchable_engines
open("c.yaml", "w").write("engine: toy\\nlaunch: {launcher: toy}")
chosen = config.load_config("c.yaml")
print("config:", chosen.engine, chosen.launch.launcher)
found = doctor.examine(["hvdkit.doctor.ranks:launchers", "hvdkit.doctor.ranks:engines"])
print("doctor:", [bool(re.search(r"\\btoy \\(", finding.detail)) for finding in found])
print("bench:", launchable_engines("toy"))
print("graph:", engines.is_collective("ToySum"))
print("failure:", engines.ended_by_peer("The other toy is broken: bang"))
"""
RANKS = """
import numpy as np
import hvdkit as hvd
hvd.init()
total = hvd.allreduce(np.array([1.0 + hvd.rank()]), op=hvd.Sum)
sys.stdout.write(f"{hvd.rank()} {hvd.size()} {total}\\n")
"""


def test_it_is_seen_everywhere(cluster):
    ended = cluster.finish(cluster.start([sys.executable, cluster.script(SEES)], ENVIRON))
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [
        "config: toy toy", "doctor: [True, True]", "bench: {'toy': ('toy', 'toy')}", "graph: True", "failure: True",
    ]  # fmt: skip
    said = cluster.run("--help", env=ENVIRON).out
    assert said.count("toy") == 2, "one of the launchers, and one of the engines"
    planned = cluster.run("-np", 2, "--dry-run", cluster.script(RANKS), launcher="toy", env=ENVIRON).out
    assert planned.startswith("launcher:  toy: it was asked for\nengine:    toy\n")
    assert f"toy.py 2 {sys.executable} -m hvdkit.launch.worker" in planned


@pytest.mark.dist
def test_it_starts_ranks_and_moves_their_bytes(cluster):
    ended = cluster.run("-np", 2, cluster.script(RANKS), launcher="toy", env=ENVIRON)
    assert ended.code == 0, ended.err
    assert "engine toy: toy started the ranks." in ended.err
    assert sorted(line.strip() for line in ended.out.splitlines()) == ["0 2 [3.]", "[1] 1 2 [3.]"]
