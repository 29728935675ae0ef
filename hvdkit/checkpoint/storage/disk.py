"""The only place of the package that opens, writes, syncs, renames and removes.

Every operation goes through ``kernel``, so that a test can put something there that counts, fails or records each one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

# Big enough that the calls cost nothing, small enough to be nothing beside a model.
CHUNK = 4 * 2**20

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(one: Path, other: Path) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux; Python has no name for it
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(one))


kernel = SimpleNamespace(
    open=os.open,
    write=os.write,
    fsync=os.fsync,
    close=os.close,
    rename=os.rename,
    exchange=_exchange,
    mkdir=os.mkdir,
    unlink=os.unlink,
    rmdir=os.rmdir,
    utime=os.utime,
)


def create(path: Path) -> int:
    """A file to write from its beginning; a symbolic link in its place is refused, not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return kernel.open(path, flags, 0o666)


def open_lock(path: Path) -> int:
    """A file that is there only to be locked."""
    return kernel.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def write(descriptor: int, data) -> None:
    """Write all of it, however few bytes the kernel takes at a time."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[kernel.write(descriptor, view) :]


def start_writing_back(descriptor: int, offset: int, length: int) -> None:
    """Let the kernel begin now what ``fsync`` will wait for; a hint, and nothing where there is no such thing."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def fsync(descriptor: int) -> None:
    """Wait until a file's bytes are on the disk."""
    kernel.fsync(descriptor)


def close(descriptor: int) -> None:
    """Close a file; some network file systems say only here that the disk is full."""
    kernel.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file and wait until its bytes are on the disk."""
    descriptor = create(path)
    try:
        write(descriptor, data)
        fsync(descriptor)
    finally:
        close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file under another name first: whoever looks sees the old one or the new one, never a half."""
    part = path.with_name(f".{path.name}.part")
    write_file(part, data)
    rename(part, path)


def sync_directory(path: Path) -> None:
    """Wait until a directory's names are on the disk; a file system that cannot do that does it by itself."""
    descriptor = kernel.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        kernel.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file or a directory another name, in one step."""
    kernel.rename(source, target)


def exchange(one: Path, other: Path) -> bool:
    """Give two directories each other's names, in one step; False where the file system or the kernel cannot."""
    try:
        kernel.exchange(one, other)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
            return False
        raise
    return True


def make_directory(path: Path) -> None:
    """Make a directory; another process may have made it already."""
    with contextlib.suppress(FileExistsError):
        kernel.mkdir(path)


def make_directories(path: Path) -> None:
    """Make a directory and those above it, each for good before the next."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    for directory in reversed(missing):
        make_directory(directory)
        sync_directory(directory.parent)


def unlink(path: Path) -> None:
    """Remove a file; another process may have removed it already."""
    with contextlib.suppress(FileNotFoundError):
        kernel.unlink(path)


def remove_tree(path: Path) -> None:
    """Remove a directory with all there is in it, or a file; links are removed, not followed.

    Raises:
        OSError: the first thing that could not be removed; the others are.
    """
    failed = None
    if path.is_dir() and not path.is_symlink():
        for name in _names(path):
            try:
                remove_tree(path / name)
            except OSError as error:
                failed = failed or error
        if failed:
            raise failed
        with contextlib.suppress(FileNotFoundError):
            kernel.rmdir(path)
    else:
        unlink(path)


def _names(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(path))
    return []


def touch(path: Path) -> None:
    """Set a file's time to now."""
    kernel.utime(path)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file to read, and its facts. A link is not followed, and a pipe is not waited for.

    Raises:
        OSError: it is not there, not a regular file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from None
        raise
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        yield descriptor, facts
    finally:
        os.close(descriptor)


def read_bytes(descriptor: int, size: int) -> bytes:
    """At most ``size`` bytes; fewer only where the file ends."""
    pieces = []
    while size > 0 and (piece := os.read(descriptor, min(size, CHUNK))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def sha256(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with reading(path) as (descriptor, _):
        while piece := os.read(descriptor, CHUNK):
            digest.update(piece)
    return digest.hexdigest()
