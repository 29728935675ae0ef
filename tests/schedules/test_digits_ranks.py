"""The recipe on real digits: a batch of 32 against 512 and 1,024 with it, and 1,024 without."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import hvdkit
from hvdkit.app import config
from hvdkit.app.explain import rates
from tests.chaos.common import count

ROOT = Path(hvdkit.__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("large_batch_*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=[f.stem for f in FILES])
def test_the_configurations_say_what_they_are(path):
    found = config.load_config(path)
    here = rates(found, found.launch.np)
    assert here.global_batch == int(path.stem.split("_")[2])
    naive = path.stem.endswith("naive")
    assert here.recipe.peak_lr == pytest.approx(0.0125 * (1 if naive else here.global_batch / 32))


@pytest.mark.dist
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not count(0, 1), reason="trains 12 times, some ten minutes: scripts/test.sh chaos")
def test_within_a_point_of_the_small_batch():
    found = {path.stem: [_accuracy(path, seed) for seed in (1, 2, 3)] for path in FILES}
    print(found)
    means = {name: statistics.mean(accuracies) for name, accuracies in found.items()}
    for name in ("large_batch_512", "large_batch_1024"):
        assert means[name] >= means["large_batch_32"] - 0.01
    assert means["large_batch_1024_naive"] < means["large_batch_1024"] - 0.02


def _accuracy(path: Path, seed: int) -> float:
    words = [sys.executable, "-m", "hvdkit", "train", str(path), "--set", f"seed={seed}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return float(re.search(r"test accuracy ([\d.]+)", done.stdout)[1])
