"""One job per directory: who may write checkpoints there, and who does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.writer import writing
from hvdkit.errors import HvdkitError
from hvdkit.utils import env
from hvdkit.utils.log import get_logger

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_LOCK_SECONDS = 1.0
# Where nothing tells whether a process on another host lives, it is taken for dead after this long without a save.
_SILENT_SECONDS = 600
# How long two jobs that start at once, without locks, give each other to write their names.
_SETTLE_SECONDS = 0.5
_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


class CheckpointInUseError(HvdkitError, RuntimeError):
    """Another job writes checkpoints to this directory."""


class _Named(BaseModel):
    """What an owner says of itself; of what it says nothing, nothing is known."""

    host: str = ""
    place: str = ""
    pid: int = Field(0, ge=0, lt=2**31)
    started: float = 0.0
    job: str | None = None
    user: str = ""
    since: int = Field(0, ge=0, lt=2**37)  # what the calendar has names for
    token: str = ""


class DirectoryLock:
    """The right to write into a directory of checkpoints; one process at a time has it, until it ends.

    It is a lock on ``.lock``, and ``.owner.json`` says who has it. Where the file system has no locks,
    ``.owner.json`` alone decides: on this host by whether that process lives, on another by whether it saved within
    the last ten minutes.

    Args:
        directory: the directory; it is made where it is missing.
        job: the job's id, for the others to read; None takes it from the batch system's variables.

    Example:

    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> with DirectoryLock(directory, job="17"):
    ...     DirectoryLock(directory).acquire()
    Traceback (most recent call last):
    hvdkit.checkpoint.storage.lock.CheckpointInUseError: ... is in use by process ... on ..., job 17, user ...
    """

    def __init__(self, directory: str | os.PathLike, job: str | None = None):
        self.directory = Path(os.path.abspath(directory))
        self._file = self.directory / ".owner.json"
        self._lock = FileLock(self.directory / ".lock", thread_local=False)
        self._job = job if job is not None else next(filter(None, map(env.get, _JOB_VARIABLES)), None)
        self._token = uuid.uuid4().hex
        self._held = False

    def acquire(self) -> DirectoryLock:
        """Take the directory, within two seconds.

        Returns:
            This owner.

        Raises:
            CheckpointInUseError: another process has it; the message names its host, process, job and since when.
            CheckpointWriteError: the directory cannot be written.
        """
        if self._held:
            return self
        with writing("The directory of checkpoints could not be taken", self.directory):
            disk.make_directories(self.directory)
            if _has_locks(self.directory / ".lock"):
                self._take_lock()
            else:
                self._take_file()
        self._held = True
        return self

    def release(self) -> None:
        """Give the directory back; without effect if it is not locked."""
        if not self._held:
            return
        self._held = False
        with contextlib.suppress(OSError):
            if (self._read() or {}).get("token") == self._token:
                disk.unlink(self._file)
        self._lock.release()

    def touch(self) -> None:
        """Say that this job lives; to be called at each save."""
        with contextlib.suppress(OSError):
            disk.touch(self._file)

    def __enter__(self) -> DirectoryLock:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take_lock(self) -> None:
        try:
            self._lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.05)
        except Timeout:
            raise self._in_use(self._read()) from None
        try:
            former = self._read()
            if former is not None:
                self._say_taken_over(former)
            self._write()
        except BaseException:
            self._lock.release()
            raise

    def _take_file(self) -> None:
        """Without locks: the last one to write its name has it, after all who come at once have written theirs."""
        former = self._read()
        if former is not None:
            if self._lives(former):
                raise self._in_use(former)
            self._say_taken_over(former)
        self._write()
        time.sleep(_SETTLE_SECONDS)
        last = self._read() or {}
        if last.get("token") != self._token:
            raise self._in_use(last)

    def _lives(self, former: dict[str, Any]) -> bool:
        if former.get("place") == env.place():
            return _runs(former)
        with contextlib.suppress(OSError):
            return abs(time.time() - self._file.stat().st_mtime) < _SILENT_SECONDS  # a time to come is none
        return False

    def _write(self) -> None:
        process = psutil.Process()
        owner = {
            "host": socket.gethostname(),
            "place": env.place(),
            "pid": process.pid,
            "started": process.create_time(),
            "job": self._job,
            "user": process.username(),
            "since": int(time.time()),
            "token": self._token,
        }
        if self._file.is_dir() and not self._file.is_symlink():
            disk.remove_tree(self._file)
        disk.replace_file(self._file, (json.dumps(owner, indent=1) + "\n").encode())

    def _read(self) -> dict[str, Any] | None:
        """Who wrote the file; an empty dictionary if that makes no sense, None if there is no file."""
        try:
            with disk.reading(self._file) as (descriptor, _):
                owner = json.loads(disk.read_bytes(descriptor, 2**16))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            return {}
        try:
            return _Named.model_validate(owner).model_dump(exclude_unset=True)
        except ValidationError:
            return {}

    def _in_use(self, owner: dict[str, Any] | None) -> CheckpointInUseError:
        owner = owner or {}
        fix = "wait for that job, end it, or save into another directory."
        if owner.get("place") == env.place() and not _runs(owner):
            fix = f"that process has ended, but one that it started holds {self.directory / '.lock'} still: end it."
        return CheckpointInUseError(f"{self.directory} is in use by {_describe(owner)}.", fix=fix)

    def _say_taken_over(self, former: dict[str, Any]) -> None:
        get_logger().info("Taking over %s from %s, which has ended.", self.directory, _describe(former))


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "a process that left no name"
    job = f", job {owner['job']}" if owner.get("job") else ""
    since = owner.get("since")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if type(since) is int else "an unknown time"
    return f"process {owner.get('pid')} on {owner.get('host')}{job}, user {owner.get('user')}, since {when}"


def _runs(owner: dict[str, Any]) -> bool:
    """Whether that very process lives on this host; another one may have got its number since."""
    try:
        process = psutil.Process(owner["pid"])
        return abs(process.create_time() - owner["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _has_locks(path: Path) -> bool:
    """Whether this file system has locks. ``FileLock`` would make do with something weaker where it has none."""
    descriptor = disk.open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    finally:
        disk.close(descriptor)
    return True
