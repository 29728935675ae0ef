"""The user's cache of built wheels, build tools and logs, shared by all environments and concurrent calls.

::

    ~/.cache/hvdkit/horovod/          (or below XDG_CACHE_HOME)
      wheels/<key>/horovod-*.whl      one wheel per recipe
      source/horovod-0.28.1.tar.gz    the download; may be put here by hand where there is no network
      tools/<name>/                   setuptools, wheel, cmake: used for building only
      logs/<key>.log                  the last build's whole output
      locks/
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hvdkit.errors import HorovodBuildError
from hvdkit.horovod_build import stamp
from hvdkit.utils import env

_PATIENCE = 2 * 3600.0


def root() -> Path:
    """The cache's folder; not made yet."""
    base = env.get("XDG_CACHE_HOME") or ""
    # The XDG rules: a relative path is to be ignored.
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return folder / "hvdkit/horovod"


def folder(name: str) -> Path:
    """One folder of the cache, made if needed.

    Raises:
        HorovodBuildError: it cannot be made.
    """
    path = root() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HorovodBuildError(
            f"The cache folder {path} cannot be created: {error.strerror or error}.",
            fix="set XDG_CACHE_HOME to a folder that can be written, with 500 MB free",
        ) from None
    return path


@contextmanager
def lock(name: str, say: Callable[[str], None] = lambda text: None, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold a lock of the cache; ``say`` hears it when another call holds it.

    Raises:
        HorovodBuildError: it is still held after ``patience`` seconds.
    """
    path = folder("locks") / f"{name}.lock"
    file_lock = FileLock(path)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        say("another hvdkit install-horovod is at this; waiting for it")
        try:
            file_lock.acquire(timeout=patience)
        except Timeout:
            raise HorovodBuildError(
                f"Another hvdkit install-horovod has held {path} for {patience:.0f} s.",
                fix="look for it with: ps aux | grep install-horovod; end it, and call again",
            ) from None
    try:
        yield
    finally:
        file_lock.release()


def wheel(key: str) -> Path | None:
    """The cached wheel of a recipe, or None. A file that is not that recipe's whole wheel counts as none."""
    for path in sorted((root() / "wheels" / key).glob("horovod-*.whl")):
        try:
            with zipfile.ZipFile(path) as packed:
                packed_key = json.loads(packed.read(f"horovod/{stamp.NAME}")).get("key")
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            continue
        if packed_key == key:
            return path
    return None


def store_wheel(key: str, built: Path) -> Path:
    """Put a built wheel into the cache: a reader sees the whole file or none."""
    target = folder(f"wheels/{key}") / built.name
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as out, built.open("rb") as source:
            shutil.copyfileobj(source, out)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target
