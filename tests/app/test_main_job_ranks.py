"""The main job: real digits on two ranks, by script and by YAML, under every launcher."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import hvdkit
from tests.machine import needs

pytestmark = pytest.mark.dist

ROOT = Path(hvdkit.__file__).parent.parent
BIN = Path(sys.executable).parent
LAST = re.compile(
    r"test accuracy (0\.\d{3}) on (\d) ranks, [\d,]+ samples/s, "
    r"weights identical on all ranks \(sha256 ([0-9a-f]{16})\)"
)
RAW = {
    "horovodrun": [str(BIN / "horovodrun"), "-np", "2"],  # takes MPI where Horovod was built with it
    "horovodrun --gloo": [str(BIN / "horovodrun"), "--gloo", "-np", "2"],
    "mpirun": ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2"],
}


def _run(*command: str, cwd: Path = ROOT) -> str:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _accuracy(output: str, ranks: int) -> float:
    found = LAST.findall(output)
    assert len(found) == 1, f"one line at the end, from rank 0 only: {output[-3000:]}"
    assert int(found[0][1]) == ranks
    assert output.count("Epoch 15/15") == 1, "epoch lines from rank 0 only"
    return float(found[0][0])


@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_the_script(launcher):
    if launcher == "mpirun":
        needs("mpirun")
    output = _run("hvdkit", "run", "-np", "2", "--launcher", launcher, "scripts/examples/digits.py")
    assert _accuracy(output, 2) >= 0.97


@pytest.mark.parametrize("launcher", RAW)
def test_the_script_under_the_launcher_itself(launcher):
    if launcher == "mpirun":
        needs("mpirun")
    output = _run(*RAW[launcher], sys.executable, "scripts/examples/digits.py")
    assert _accuracy(output, 2) >= 0.97


def test_the_yaml_starts_its_own_ranks(tmp_path):
    saved = tmp_path / "models" / "digits.keras"
    output = _run("hvdkit", "train", "configs/digits.yaml", "--set", f"save={saved}")
    assert _accuracy(output, 2) >= 0.97
    assert [p.name for p in saved.parent.iterdir()] == ["digits.keras"], "no half-written file beside it"
    assert type(keras.models.load_model(saved).optimizer) is keras.optimizers.Adam


def test_the_yaml_under_a_launcher_with_users_own_model(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import keras\n"
        "def build(input_shape, classes, width):\n"
        "    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(),\n"
        "        keras.layers.Dense(width, activation='relu'), keras.layers.Dense(classes, activation='softmax')])\n"
    )
    config = tmp_path / "c.yaml"
    config.write_text(
        "model: {name: 'mine:build', width: 64}\noptimizer: {name: sgd, learning_rate: 0.2, momentum: 0.9}\n"
        "compression: fp16\nepochs: 15\nconsistency_check_every: 5\n"
    )
    output = _run(*RAW["horovodrun"], sys.executable, "-m", "hvdkit", "train", str(config), cwd=tmp_path)
    assert _accuracy(output, 2) >= 0.9  # a small model, few epochs


def test_one_process_needs_no_launcher():
    output = _run(sys.executable, "scripts/examples/digits.py")
    assert _accuracy(output, 1) >= 0.97
