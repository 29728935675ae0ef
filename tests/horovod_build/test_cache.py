"""The cache under concurrent calls, and broken files in it."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from hvdkit.errors import HorovodBuildError
from hvdkit.horovod_build import cache


@pytest.fixture(autouse=True)
def _private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def make_wheel(folder, key, size=0):
    """A file that looks like a built wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("horovod/hvdkit_build.json", json.dumps({"key": key, "parts": {}}))
        packed.writestr("horovod/tensorflow/mpi_lib.so", b"x" * size)
    return path


def test_a_kept_wheel_is_found(tmp_path):
    assert cache.wheel("k1") is None
    kept = cache.store_wheel("k1", make_wheel(tmp_path / "out", "k1"))
    assert cache.wheel("k1") == kept
    assert kept.is_relative_to(tmp_path / "hvdkit/horovod/wheels/k1")
    assert cache.wheel("k2") is None


def test_a_broken_or_foreign_wheel_counts_as_none(tmp_path):
    kept = cache.store_wheel("k1", make_wheel(tmp_path / "out", "k1", size=5000))
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert cache.wheel("k1") is None
    kept.write_bytes(make_wheel(tmp_path / "out", "another").read_bytes())
    assert cache.wheel("k1") is None


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError):
        cache.store_wheel("k1", tmp_path / "nowhere.whl")
    assert list(cache.folder("wheels/k1").iterdir()) == []


_USER = """\
import sys, time
from pathlib import Path
from hvdkit.horovod_build import cache
work = Path(sys.argv[1])
with cache.lock("wheel-k1", print):
    if cache.wheel("k1"):
        print("reused")
    else:
        with (work / "builds").open("a") as file:
            file.write("x")
        time.sleep(1)
        cache.store_wheel("k1", work / "out/horovod-0.28.1-cp311-cp311-linux_x86_64.whl")
        print("built")
"""


def test_of_concurrent_calls_one_builds_and_the_others_wait_and_reuse(tmp_path):
    make_wheel(tmp_path / "out", "k1", size=2_000_000)
    argv = [sys.executable, "-c", _USER, str(tmp_path)]
    children = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [child.communicate(timeout=60)[0] for child in children]
    assert (tmp_path / "builds").read_text() == "x"
    assert sorted(text.splitlines()[-1] for text in said) == ["built", "reused", "reused", "reused"]
    assert any("waiting" in text for text in said)


def test_a_reader_never_sees_half_a_wheel(tmp_path):
    """Two writers replace the wheel over and over; whoever looks sees a whole one."""
    made = make_wheel(tmp_path / "out", "k1", size=3_000_000)
    code = f"""\
from pathlib import Path
from hvdkit.horovod_build import cache
for _ in range(15):
    cache.store_wheel("k1", Path({str(made)!r}))
"""
    cache.store_wheel("k1", made)
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    looked = 0
    while any(child.poll() is None for child in children):
        assert cache.wheel("k1") is not None
        looked += 1
    assert looked > 20
    assert [child.wait() for child in children] == [0, 0]
    assert len(list(cache.folder("wheels/k1").iterdir())) == 1


def test_a_lock_that_is_never_given_back_is_an_error_that_names_it(tmp_path):
    code = "import time\nfrom hvdkit.horovod_build import cache\nwith cache.lock('a'):\n"
    code += " print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        child.stdout.readline()
        began = time.monotonic()
        with pytest.raises(HorovodBuildError, match=r"a\.lock"), cache.lock("a", patience=0.5):
            pass
        assert time.monotonic() - began < 20
    finally:
        child.kill()
        child.wait()
    with cache.lock("a", patience=5):  # a dead holder holds nothing
        pass


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(HorovodBuildError, match="XDG_CACHE_HOME"):
        cache.folder("wheels")


def test_a_relative_xdg_cache_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache.root() == Path.home() / ".cache/hvdkit/horovod"
