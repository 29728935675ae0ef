"""A save and a prune that die at each of their disk operations: ``python -m tests.chaos.every_operation DIR``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from hvdkit.checkpoint.storage.format import DamagedCheckpointError
from hvdkit.checkpoint.storage.store import RetentionPolicy, Store
from hvdkit.checkpoint.storage.writer import CheckpointWriteError
from tests.chaos.common import Kernel, is_right, left_over, save, save_other, value_of

# What is done while the n-th operation fails. Before, there are the steps 1 and 2.
CASES = {
    "first": lambda store: save(store, 1),
    "save": lambda store: save(store, 3),
    "again": lambda store: save(store, 2, "other"),
    "replace": lambda store: save(store, 2, "other"),
    "overwrite": lambda store: save(store, 2, "other"),
    "prune": lambda store: store.prune(RetentionPolicy(last=1)),
    "clean": lambda store: store.clean("next"),
}


def prepare(directory: Path, case: str) -> Store:
    """A store with what the case needs."""
    shutil.rmtree(directory, ignore_errors=True)
    store = Store(directory)
    if case != "first":
        save(store, 1)
        save(store, 2)
    if case == "replace":
        with open(store.path(2) / "common.safetensors", "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")
    if case == "overwrite":
        save_other(store, 2, 17.0)
    if case == "clean":
        store.writer(3, "old").write("common", {})
        store.path(1).rename(store.directory / ".deleting-step-000000001")
    return store


def operations(directory: Path, case: str) -> int:
    """How many operations the case takes."""
    store = prepare(directory, case)
    with Kernel(lambda *_: None) as kernel:
        CASES[case](store)
    return kernel.number


def wrong_after(store: Store, case: str) -> list[str]:
    """What is not as it should be, whatever was cut short."""
    wrong = []
    for step in store.steps():
        try:
            old = (case, step) == ("overwrite", 2) and value_of(store, 2) == 17.0
            if not (old or is_right(store, step)):
                wrong.append(f"step {step} has other content")
        except DamagedCheckpointError as error:
            if (case, step) != ("replace", 2):  # it was damaged before
                wrong.append(str(error))
    newest = store.newest_valid()
    least = {"first": 0, "replace": 1, "clean": 2}.get(case, 2)
    if (newest.manifest.step if newest else 0) < least:
        wrong.append(f"the newest valid one is {newest}")
    try:
        save(store, 4, "next")
        store.clean("next")
        if not is_right(store, 4):
            wrong.append("step 4 has other content")
    except (CheckpointWriteError, DamagedCheckpointError) as error:
        wrong.append(f"not usable: {error}")
    return wrong + [f"left over: {name}" for name in left_over(store)]


def die(directory: Path, case: str, at: int) -> list[str]:
    """Do it in a process that ends without a word at one operation."""

    def before(number, name, arguments):
        if number == at:
            os._exit(9)

    store = prepare(directory, case)
    process = os.fork()
    if process == 0:
        with Kernel(before):
            CASES[case](store)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return ([] if code == 9 else [f"it ended with {code}"]) + wrong_after(store, case)


def main(directory: str) -> dict:
    """Each case at each of its operations."""
    result = {}
    for case in CASES:
        total = operations(Path(directory), case)
        wrong = [f"{n}: {text}" for n in range(1, total + 1) for text in die(Path(directory), case, n)]
        result[case] = {"operations": total, "wrong": wrong[:10]}
    return result


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
