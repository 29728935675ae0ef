"""A job that saves in a loop and is killed at any moment: ``python -m tests.chaos.kills DIR N SEED``."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

from hvdkit.checkpoint.storage.format import DamagedCheckpointError
from hvdkit.checkpoint.storage.lock import DirectoryLock
from hvdkit.checkpoint.storage.store import RetentionPolicy, Store
from tests.chaos.common import is_right, left_over, save

KEEP = RetentionPolicy(last=3)
SIZE = 300_000  # 1.2 MB in each of two parts


def job(directory: str, run_id: str, log: int) -> None:
    """Save for ever, and report each step after its commit."""
    with DirectoryLock(directory):
        store = Store(directory)
        store.clean(run_id)
        os.write(log, f"cleaned {len(left_over(store))}\n".encode())
        newest = store.newest_valid()
        step = newest.manifest.step if newest else 0
        while True:
            step += 1
            save(store, step, run_id, SIZE)
            os.write(log, f"step {step}\n".encode())
            store.prune(KEEP)


def start(directory: str, run_id: str) -> tuple[int, int]:
    """Start the job; its process and the pipe it reports to."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read)
        try:
            job(directory, run_id, write)
        except BaseException as error:
            os.write(write, f"failed {error!r}\n".encode())
        os._exit(1)
    os.close(write)
    return process, read


def main(directory: str, kills: int, seed: int) -> dict:
    """Kill as often, look each time."""
    chance = random.Random(seed)
    wrong, reported, looked, moments = [], [], 0, {"between": 0, "within a save": 0, "within a prune": 0}
    store = Store(directory)
    for number in range(kills):
        process, log = start(directory, f"run-{number}")
        time.sleep(chance.uniform(0.005, 0.2))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        with os.fdopen(log) as lines:
            for line in lines:
                word, value = line.split(maxsplit=1)
                if word == "step":
                    reported.append(int(value))
                elif word == "failed" or int(value):
                    wrong.append(f"kill {number}: {line.strip()}")
        names = left_over(store)
        within = [
            kind
            for kind, mark in (("within a save", ".incoming"), ("within a prune", ".deleting"))
            if any(name.startswith(mark) for name in names)
        ]
        moments[within[0] if within else "between"] += 1
        # One that was committed when the kill came, and so not reported, has taken a place of the three too.
        there = {*reported, *store.steps()}
        for step in {*sorted(there)[-KEEP.last :], *store.steps()}:
            looked += 1
            try:
                if not is_right(store, step, SIZE):
                    wrong.append(f"kill {number}: step {step} has other content")
            except DamagedCheckpointError as error:
                wrong.append(f"kill {number}: {error}")
    return {"kills": kills, "steps": len(reported), "looked": looked, "moments": moments, "wrong": wrong[:20]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
