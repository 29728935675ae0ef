"""A full disk, a read-only one, a directory without rights, and two jobs in one directory."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from filelock import FileLock

from hvdkit.checkpoint.storage import lock as lock_module
from hvdkit.checkpoint.storage.lock import CheckpointInUseError, DirectoryLock
from hvdkit.checkpoint.storage.store import RetentionPolicy, Store
from hvdkit.checkpoint.storage.writer import CheckpointWriteError
from tests.chaos.common import ROOT, is_right, left_over, mount, save

pytestmark = pytest.mark.timeout(120)


def test_a_full_disk(small_disk):
    store = Store(small_disk / "store")
    for step in (1, 2):
        save(store, step)
    writer = store.writer(3, "run")
    writer.write("common", {"x": np.zeros(2**18, "float32")})
    with pytest.raises(CheckpointWriteError, match=r"step 3 could not be written: .*No space left on device") as caught:
        writer.write("rank-00000", {"x": np.zeros(2**20, "float32")})
    assert "make room" in caught.value.fix and str(small_disk) in caught.value.what
    assert left_over(store) == []
    assert is_right(store, 2) and is_right(store, 1)
    save(store, 4)  # what it took is free again
    assert store.prune(RetentionPolicy(last=1)) == [2, 1]


def test_a_disk_without_one_free_byte(small_disk):
    store = Store(small_disk / "store")
    save(store, 1)
    with pytest.raises(OSError, match="No space left"), open(small_disk / "filler", "wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    with pytest.raises(CheckpointWriteError, match="No space left"):
        save(store, 2)
    assert left_over(store) == [] and store.newest_valid().manifest.step == 1
    assert store.prune(RetentionPolicy(last=0)) == []


def test_a_read_only_disk(small_disk):
    store = Store(small_disk / "store")
    save(store, 1)
    save(store, 2)
    writer = store.writer(3, "run")
    done = mount("-o", "remount,ro", small_disk)
    if done.returncode:
        pytest.skip(f"remounting is not allowed here: {done.stderr.strip()}")
    for attempt in (
        lambda: writer.write("common", {}),
        lambda: store.writer(4, "run"),
        lambda: store.prune(RetentionPolicy(last=1)),
        lambda: store.clean("next"),
        lambda: DirectoryLock(store.directory).acquire(),
    ):
        with pytest.raises(CheckpointWriteError, match="Read-only file system") as caught:
            attempt()
        assert "read-only" in caught.value.fix
    assert store.steps() == [2, 1] and is_right(store, 1) and is_right(store, 2)
    mount("-o", "remount,rw", small_disk)
    assert store.clean("next") == [".incoming-step-000000003-run"]


def test_a_directory_without_rights(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointWriteError, match="Permission denied"):
            Store(tmp_path / "store").writer(1, "run")
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def job(tmp_path):
    """A job that owns the directory, in a process of its own."""
    argv = [sys.executable, "-m", "tests.chaos.holder", str(tmp_path), "job-17"]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def refused(directory) -> str:
    began = time.monotonic()
    with pytest.raises(CheckpointInUseError) as caught:
        DirectoryLock(directory).acquire()
    assert time.monotonic() - began < 5
    return str(caught.value)


def test_two_jobs_in_one_directory(job, tmp_path, monkeypatch):
    text = refused(tmp_path)
    assert f"process {job.pid} on {socket.gethostname()}, job job-17" in text and str(tmp_path) in text
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)
    said = []
    monkeypatch.setattr(lock_module.get_logger(), "info", lambda text, *words: said.append(text % words))
    job.send_signal(signal.SIGKILL)
    job.wait()
    with DirectoryLock(tmp_path, job="job-18"):
        assert json.loads((tmp_path / ".owner.json").read_text())["job"] == "job-18"
        assert refused(tmp_path)
    assert len(said) == 1 and f"process {job.pid}" in said[0]
    with DirectoryLock(tmp_path):  # the former one left in good order
        assert len(said) == 1
    assert is_right(Store(tmp_path), 1)


def test_a_lock_that_outlived_its_owner_is_told(job, tmp_path):
    """A process that the owner forked has its lock too."""
    job.kill()
    job.wait()
    with FileLock(tmp_path / ".lock"):
        assert "one that it started holds" in refused(tmp_path)


@pytest.fixture
def no_locks(monkeypatch):
    monkeypatch.setattr(lock_module, "_has_locks", lambda path: False)
    monkeypatch.setattr(lock_module, "_SETTLE_SECONDS", 0.05)


def test_without_locks_a_process_of_this_host(job, tmp_path, no_locks):
    assert f"process {job.pid} on {socket.gethostname()}, job job-17" in refused(tmp_path)
    job.kill()
    job.wait()
    DirectoryLock(tmp_path).acquire().release()


def test_without_locks_a_number_that_another_process_got(job, tmp_path, no_locks):
    file = tmp_path / ".owner.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "started": 1.0}))
    DirectoryLock(tmp_path).acquire().release()


def test_without_locks_a_process_of_another_host(job, tmp_path, no_locks):
    file = tmp_path / ".owner.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "far", "place": "far"}))
    assert "on far, job job-17" in refused(tmp_path)
    os.utime(file, (time.time() - 700,) * 2)
    with DirectoryLock(tmp_path) as mine:
        os.utime(file, (time.time() - 700,) * 2)
        mine.touch()
        assert time.time() - file.stat().st_mtime < 60


def test_without_locks_only_one_of_two_that_come_at_once(tmp_path, no_locks, monkeypatch):
    other = {"token": "other", "host": "far", "pid": 1, "place": "far"}
    write = lambda seconds: (tmp_path / ".owner.json").write_text(json.dumps(other))
    monkeypatch.setattr(lock_module.time, "sleep", write)
    assert "on far" in refused(tmp_path)
