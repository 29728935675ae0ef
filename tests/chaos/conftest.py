"""Where the chaos tests work."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.chaos.common import mount


@pytest.fixture
def quick_path():
    """A directory in memory, where there is one: for tests in which no disk has to wait for anything."""
    memory = "/dev/shm"
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as directory:
        yield Path(directory)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    done = mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", path)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)
