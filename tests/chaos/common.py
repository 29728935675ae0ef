"""What the chaos tests share: how often, what is saved, and programs of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.store import Store

ROOT = Path(__file__).parent.parent.parent
PARTS = ["common", "rank-00000"]


def count(short: int, long: int) -> int:
    """How often: ``HVDKIT_CHAOS=long`` asks for the long run."""
    return long if os.environ.get("HVDKIT_CHAOS") == "long" else short


def arrays_of(step: int, part: str, size: int = 16) -> dict[str, np.ndarray]:
    """What is saved at a step; another for each step and part, so that a mix of two is seen."""
    numbers = np.random.default_rng([step, len(part)])
    return {"kernel": numbers.normal(size=size).astype("float32"), "count": np.array(step)}


def save(store: Store, step: int, run_id: str = "run", size: int = 16) -> None:
    """Save a step as a job of one process does."""
    writer = store.writer(step, run_id)
    for part in PARTS:
        writer.write(part, arrays_of(step, part, size), {"step": step})
    writer.commit(PARTS, epoch=1, world_size=1, state={"metrics": {"loss": 1 / (step + 1)}}, deadline_s=5)


def save_other(store: Store, step: int, value: float, run_id: str = "other") -> None:
    """Save something else as a step."""
    writer = store.writer(step, run_id)
    writer.write("common", {"value": np.array(value)})
    writer.commit(["common"], epoch=1, world_size=1)


def value_of(store: Store, step: int) -> float | None:
    """What ``save_other`` saved; None where ``save`` did."""
    checkpoint = store.verify(step)
    return float(checkpoint.get("common", "value")) if checkpoint.names("common") == ["value"] else None


def is_right(store: Store, step: int, size: int = 16) -> bool:
    """Whether a step is there with every byte that was saved; an error where it is damaged."""
    checkpoint = store.verify(step)
    for part in PARTS:
        for name, array in arrays_of(step, part, size).items():
            if checkpoint.get(part, name).tobytes() != array.tobytes():
                return False
    return checkpoint.manifest.step == step


def left_over(store: Store) -> list[str]:
    """The names in a store that are neither checkpoints nor the owner's."""
    known = {".lock", ".owner.json"}
    return [name for name in os.listdir(store.directory) if not name.startswith("step-") and name not in known]


class Kernel:
    """The disk's operations, each shown to ``before`` with its number, its name and its arguments."""

    def __init__(self, before):
        self.before = before
        self.number = 0
        self._real = disk.kernel

    def __getattr__(self, name):
        real = getattr(self._real, name)

        def operation(*arguments):
            self.number += 1
            self.before(self.number, name, arguments)
            return real(*arguments)

        return operation

    def __enter__(self):
        disk.kernel = self
        return self

    def __exit__(self, *_):
        disk.kernel = self._real


def run_module(name: str, *words: object, timeout: float = 3000) -> dict:
    """Run a program of these tests in a process of its own, and read the JSON it prints last."""
    began = time.monotonic()
    argv = [sys.executable, "-m", f"tests.chaos.{name}", *map(str, words)]
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(name, f"{time.monotonic() - began:.1f} s", json.dumps(result)[:600])
    return result


def mount(*words):
    return subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
