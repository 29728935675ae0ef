"""Every single disk operation of a save, a prune and a clean fails once, and the process dies there once."""

from __future__ import annotations

import errno
import os

import pytest

from hvdkit.checkpoint.storage.writer import CheckpointWriteError
from tests.chaos.common import Kernel, count, run_module
from tests.chaos.every_operation import CASES, operations, prepare, wrong_after

WAYS = [(errno.ENOSPC, "from then on"), (errno.EIO, "once"), (errno.EIO, "from then on"), (errno.ENOSPC, "once")]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("code", "how"), WAYS[: count(2, 4)])
def test_every_operation_fails(quick_path, case, code, how):
    directory = quick_path / "store"
    silent = 0
    for at in range(1, operations(directory, case) + 1):
        store = prepare(directory, case)

        def before(number, name, arguments, at=at):
            if number == at or (how == "from then on" and number > at):
                raise OSError(code, os.strerror(code))

        try:
            with Kernel(before):
                CASES[case](store)
            silent += 1
        except CheckpointWriteError as error:
            assert os.strerror(code) in str(error) and str(directory) in str(error) and error.fix
            assert "\n" not in error.what
        assert wrong_after(store, case) == [], f"operation {at}"
    # What may fail without a word: to drop a checkpoint nobody needs, or the one that was replaced.
    assert silent <= {"again": 8, "replace": 6, "overwrite": 6}.get(case, 0)


def test_the_process_dies_at_every_operation(quick_path):
    result = run_module("every_operation", quick_path / "store")
    assert {case: found["wrong"] for case, found in result.items() if found["wrong"]} == {}
    assert set(result) == set(CASES) and all(found["operations"] > 3 for found in result.values())


def test_a_failed_save_leaves_no_draft(quick_path):
    directory = quick_path / "store"
    for at in range(1, operations(directory, "save") + 1):
        store = prepare(directory, "save")

        def before(number, name, arguments, at=at):
            if number == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with Kernel(before), pytest.raises(CheckpointWriteError):
            CASES["save"](store)
        assert [name for name in os.listdir(directory) if not name.startswith("step-")] == []
