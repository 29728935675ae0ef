"""The store: several processes write one checkpoint, one commits it; which ones stay, and that there is always one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.format import parse_part
from hvdkit.checkpoint.storage.store import CheckpointWriteError, DamagedCheckpointError, RetentionPolicy, Store
from hvdkit.errors import UsageError
from tests.chaos.common import Kernel, is_right, left_over, save, save_other, value_of


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def damage(store, step):
    path = store.path(step) / "common.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def test_several_processes_write_one_checkpoint(store):
    code = (
        "import sys, time, numpy as np\nfrom hvdkit.checkpoint.storage.store import Store\nrank = int(sys.argv[2])\n"
        "time.sleep(rank * 0.3)\n"
        "Store(sys.argv[1]).writer(7, 'run').write(f'rank-{rank:05d}', {'x': np.array(rank)}, {'rank': rank})"
    )
    argv = [sys.executable, "-c", code, str(store.directory)]
    ranks = [subprocess.Popen([*argv, str(rank)]) for rank in range(3)]
    writer = store.writer(7, "run")
    writer.write("common", {"x": np.array(9)})
    parts = ["common", *(f"rank-{rank:05d}" for rank in range(3))]
    path = writer.commit(parts, epoch=2, world_size=3, state={"a": 1}, deadline_s=60)
    assert [rank.wait() for rank in ranks] == [0, 0, 0]
    checkpoint = store.verify(7)
    assert path == checkpoint.path == store.directory / "step-000000007"
    assert sorted(os.listdir(path)) == ["common.safetensors", "manifest.json", *(f"{p}.safetensors" for p in parts[1:])]
    assert [int(checkpoint.get(part, "x")) for part in parts] == [9, 0, 1, 2]
    assert checkpoint.meta("rank-00002") == {"rank": 2}
    assert (checkpoint.manifest.epoch, checkpoint.manifest.world_size, checkpoint.manifest.state) == (2, 3, {"a": 1})
    assert time.time() - checkpoint.manifest.created < 60


def test_a_part_that_does_not_come(store):
    writer = store.writer(1, "run")
    writer.write("common", {})
    parts = ["common", "rank-00000", "rank-00001"]
    with pytest.raises(CheckpointWriteError, match=r"after 0\.2 s, .* has no rank-00000, rank-00001") as caught:
        writer.commit(parts, epoch=1, world_size=1, deadline_s=0.2)
    assert "all hosts share" in caught.value.fix
    assert store.steps() == [] and left_over(store) == []


def test_the_wait_ends_when_another_process_fails(store):
    writer = store.writer(1, "run")
    threading.Timer(0.2, writer.drop).start()
    with pytest.raises(CheckpointWriteError, match="another process removed"):
        writer.commit(["common"], epoch=1, world_size=1, deadline_s=60)
    with pytest.raises(CheckpointWriteError, match="No such file") as caught:
        writer.write("rank-00000", {})
    assert "other processes" in caught.value.fix


def test_the_wait_ends_when_poll_says_so(store):
    def poll():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.writer(1, "run").commit(["common"], epoch=1, world_size=1, poll=poll)
    assert left_over(store) == []


def test_a_part_written_twice_is_the_second_one(store):
    writer = store.writer(1, "run")
    writer.write("common", {"x": np.zeros(100)})
    writer.write("common", {"x": np.ones(1)})
    writer.write("rank-00005", {})  # of a rank that is not in the world any more
    writer.commit(["common"], epoch=1, world_size=1)
    assert store.verify(1).get("common", "x").tolist() == [1]
    assert sorted(os.listdir(store.path(1))) == ["common.safetensors", "manifest.json"]


def test_a_step_saved_again_after_a_resume_stays_as_it_is(store):
    save(store, 1)
    before = store.path(1).stat().st_ino
    save(store, 1, "other")
    assert store.path(1).stat().st_ino == before and is_right(store, 1) and left_over(store) == []


def test_a_damaged_step_saved_again_is_replaced(store):
    save(store, 1)
    damage(store, 1)
    save(store, 1, "other")
    assert is_right(store, 1) and left_over(store) == []


def test_a_valid_one_is_never_away_while_its_step_is_saved_again(store):
    """At each operation of it, the old one is there, or else it was damaged."""
    save(store, 1)
    with Kernel(lambda *_: is_right(store, 1) or pytest.fail("it is gone")):
        save(store, 1, "other")


def test_a_step_saved_again_with_other_content_is_replaced_and_never_away(store):
    save_other(store, 1, 1.0)
    seen = []
    with Kernel(lambda *_: seen.append(value_of(store, 1))):
        save_other(store, 1, 7.0)
    assert set(seen) == {1.0, 7.0} and seen == sorted(seen) and left_over(store) == []


def test_a_step_is_replaced_where_names_cannot_be_exchanged(store, monkeypatch):
    """As on NFS: the old one is set aside for a moment, and taken back when that moment is the last."""

    def cannot(number, name, _):
        if name == "exchange":
            raise OSError(errno.EINVAL, "no such flag")

    save_other(store, 1, 1.0)
    with Kernel(cannot):
        save_other(store, 1, 7.0)
    assert value_of(store, 1) == 7.0 and left_over(store) == []

    def dies(number, name, arguments):
        cannot(number, name, arguments)
        if name == "rename" and Path(arguments[1]).name == "step-000000001":
            raise KeyboardInterrupt

    with Kernel(dies), pytest.raises(KeyboardInterrupt):
        save_other(store, 1, 8.0)
    assert store.steps() == [1] and value_of(store, 1) == 7.0, "for those who only read, too"
    assert not (store.directory / "step-000000001").exists()
    assert store.clean("next") == [] and value_of(store, 1) == 7.0 and left_over(store) == []


def test_what_was_just_saved_is_not_pruned_for_newer_ones_of_another_training(store):
    for step in (10, 11, 12):
        save(store, step)
    save_other(store, 1, 7.0)
    assert store.prune(RetentionPolicy(last=2), valid=1) == [10] and store.steps() == [12, 11, 1]


def test_a_part_is_done_only_when_it_is_whole(store):
    """Whoever commits looks at any moment: its record is not there, or all of it and of the part."""
    writer = store.writer(1, "run")
    seen = []

    def look(number, name, arguments):
        if (writer.path / "common.json").exists():
            entry = parse_part((writer.path / "common.json").read_bytes(), writer.path)
            seen.append(name)
            assert disk.sha256(writer.path / entry.file) == entry.sha256

    for value in (1, 2):
        with Kernel(look):
            writer.write("common", {"x": np.full(10, value)})
    assert seen


def test_steps_ignores_everything_else(store):
    assert store.steps() == [] and store.newest_valid() is None and store.clean("run") == []
    assert store.prune(RetentionPolicy(last=1)) == []
    for step in (5, 1234567890, 30):
        save(store, step)
    store.writer(99, "run")
    (store.directory / "notes.txt").write_text("x")
    (store.directory / "step-7").mkdir()
    assert store.steps() == [1234567890, 30, 5]


def test_the_newest_valid_one(store):
    for step in (1, 2, 3, 4):
        save(store, step)
    damage(store, 4)
    (store.path(3) / "manifest.json").unlink()
    skipped = []
    assert store.newest_valid(lambda step, error: skipped.append((step, str(error)))).manifest.step == 2
    assert [step for step, _ in skipped] == [4, 3]
    assert "common.safetensors" in skipped[0][1] and "manifest.json: it is missing" in skipped[1][1]
    assert store.open(4).manifest.step == 4  # quick, and so not thorough
    with pytest.raises(DamagedCheckpointError, match="sha256"):
        store.verify(4)
    with pytest.raises(DamagedCheckpointError, match="step-000000009: it is missing"):
        store.open(9)


def test_clean_keeps_the_drafts_of_this_run(store):
    for run in ("mine", "other", "not-mine"):
        store.writer(1, run).write("common", {})
    save(store, 2)
    assert store.clean("mine") == [".incoming-step-000000001-not-mine", ".incoming-step-000000001-other"]
    assert left_over(store) == [".incoming-step-000000001-mine"] and store.steps() == [2]


@pytest.mark.parametrize("run_id", ["", "a/b", "..", "a b", "x" * 65, None, "a\n", ".a"])
def test_run_ids_that_are_not_names(store, run_id):
    with pytest.raises(UsageError, match="run_id"):
        store.writer(1, run_id)
    with pytest.raises(UsageError, match="run_id"):
        store.clean(run_id)


@pytest.mark.parametrize("step", [-1, 1.5, "1", True, None, 10**12])
def test_steps_that_are_not_numbers(store, step):
    with pytest.raises(UsageError, match="A step should be"):
        store.writer(step, "run")


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (RetentionPolicy(), [10, 9, 8]),
        (RetentionPolicy(last=1), [10]),
        (RetentionPolicy(last=0), [10]),
        (RetentionPolicy(last=2, every=4), [10, 9, 8, 4]),
        (RetentionPolicy(last=1, best=2, monitor="loss"), [10, 9]),
        (RetentionPolicy(last=1, best=2, monitor="loss", mode="max"), [10, 2, 1]),
        (RetentionPolicy(last=1, best=2, monitor="other"), [10]),
        (RetentionPolicy(last=20), [*range(10, 0, -1)]),
    ],
    ids=str,
)
def test_what_is_kept(store, keep, left):
    for step in range(1, 11):
        save(store, step)
    would = store.prune(keep, dry_run=True)
    assert len(store.steps()) == 10
    assert store.prune(keep) == would == [step for step in range(10, 0, -1) if step not in left]
    assert store.steps() == left and left_over(store) == []
    assert all(is_right(store, step) for step in left)


def test_the_newest_valid_one_is_never_removed(store):
    for step in (1, 2, 3, 4, 5):
        save(store, step)
    for step in (3, 4, 5):
        damage(store, step)
    assert store.prune(RetentionPolicy(last=2)) == [3, 1]
    assert store.steps() == [5, 4, 2]
    assert store.newest_valid().manifest.step == 2


def test_where_none_is_valid_none_is_removed(store):
    for step in (1, 2):
        save(store, step)
        damage(store, step)
    assert store.prune(RetentionPolicy(last=1)) == [] and store.steps() == [2, 1]


@pytest.mark.parametrize(
    "rules", [{"last": -1}, {"every": 0}, {"best": -1}, {"best": 1}, {"mode": "least"}], ids=lambda rules: str(rules)
)
def test_rules_that_cannot_be(rules):
    with pytest.raises(UsageError):
        RetentionPolicy(**rules)


def test_memory_is_bounded_while_writing_and_verifying(tmp_path):
    """A part of 400 MB takes a few MB beside its arrays; read one by one, not all of it."""
    code = (
        "import resource, sys, numpy as np\nfrom hvdkit.checkpoint.storage.store import Store\n"
        "store = Store(sys.argv[1])\nused = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "one = np.ones(25 * 2**18, 'float32')\nwriter = store.writer(1, 'run')\nbefore = used()\n"
        "writer.write('common', {f'x{i}': one for i in range(16)})\nwriter.commit(['common'], epoch=1, world_size=1)\n"
        "written = used()\nstore.verify(1)\nverified = used()\ncheckpoint = store.open(1)\n"
        "for i in range(16): checkpoint.get('common', f'x{i}')\n"
        "print(written - before, verified - before, used() - before)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    writing, verifying, reading = map(int, done.stdout.split())
    assert writing < 60 and verifying < 60 and reading < 200
