"""Starting the training of ``job.py``, and looking at what it left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from hvdkit.utils import env
from tests.chaos.common import ROOT
from tests.machine import launcher_of


def command(out: Path, ranks: int, restarts: int = 0, launcher: str = "mpirun", **how) -> list[str]:
    """Ranks under a launcher; one rank that nothing starts again without one."""
    out.mkdir(exist_ok=True, parents=True)
    words = ["-m", "tests.chaos.job", str(out), json.dumps(how)]
    if ranks == 1 and not restarts:
        return [sys.executable, *words]
    start = ["-m", "hvdkit", "run", "-np", str(ranks), "--launcher", launcher_of(launcher)]
    return [sys.executable, *start, "--max-restarts", str(restarts), *words]


def run(out: Path, ranks: int, *, code: int | None = 0, **how) -> str:
    """Everything that it says; ``code`` is how it must end."""
    argv = command(out, ranks, **how)
    done = subprocess.run(argv, cwd=ROOT, env=env.child(), capture_output=True, text=True, timeout=500, check=False)
    assert code is None or done.returncode == code, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def final(out: Path, rank: int) -> dict[str, np.ndarray]:
    """Everything that a rank ended with; names without those of layers, which carry counters."""
    with np.load(out / f"final-{rank}.npz") as arrays:
        return {"/".join(name.split("/")[:2]): arrays[name] for name in arrays}


def rows(out: Path, ranks: int, attempt: int = 0) -> list:
    """What each rank saw, in order: epoch, step, samples."""
    found = []
    for rank in range(ranks):
        path = out / f"rows-{rank}-{attempt}.jsonl"
        found.append([json.loads(line) for line in path.read_text().splitlines()] if path.exists() else [])
    return found


def same(one: Path, other: Path, ranks: int, but: str | None = None) -> None:
    for rank in range(ranks):
        a, b = final(one, rank), final(other, rank)
        assert a.keys() == b.keys()
        different = [name for name in a if a[name].tobytes() != b[name].tobytes() and name != but]
        assert not different, f"rank {rank}: {different}"
