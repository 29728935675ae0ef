"""A checkpoint that is being written, in a separate directory until it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.format import (
    MANIFEST,
    MAX_MANIFEST,
    DamagedCheckpointError,
    Manifest,
    Part,
    canonical,
    check_json,
    check_part,
    manifest_bytes,
    parse_part,
    part_file,
    read_limited,
    step_name,
)
from hvdkit.checkpoint.storage.parts import check_arrays, write_part
from hvdkit.checkpoint.storage.reader import Checkpoint
from hvdkit.errors import HvdkitError, UsageError

INCOMING, DAMAGED, DELETING, REPLACED = ".incoming-", ".damaged-", ".deleting-", ".replaced-"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_FIXES = {
    errno.ENOSPC: "make room there, or keep fewer checkpoints",
    errno.EDQUOT: "make room there or have the quota raised, or keep fewer checkpoints",
    errno.EROFS: "choose a directory that can be written; this file system is mounted read-only",
    errno.EACCES: "choose a directory that this user can write",
    errno.ENOENT: "see the messages of the other processes: the one that fails removes what they all write",
    errno.EPERM: "choose a directory that this user can write",
}


class CheckpointWriteError(HvdkitError, RuntimeError):
    """A checkpoint could not be written or removed; those that were committed are untouched."""


@contextlib.contextmanager
def writing(what: str, where: Path, untouched: str = "the committed checkpoints there are") -> Iterator[None]:
    """Say of a failed operation what it was for, where, and what to do.

    Raises:
        CheckpointWriteError: instead of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        place = error.filename or where
        raise CheckpointWriteError(
            f"{what}: {os.fspath(place)}: {error.strerror or error}.",
            fix=f"{_FIXES.get(error.errno, 'look at that disk')}; {untouched} untouched.",
        ) from error


def check_run_id(run_id: str) -> str:
    """A run's name as it is, where it can be the end of a directory's name.

    Raises:
        UsageError: it cannot.
    """
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise UsageError(f"A run_id should be 1 to 64 letters, digits, dots, dashes or underscores. Got: {run_id!r}.")
    return run_id


def _rest() -> None:
    time.sleep(0.05)


class CheckpointWriter:
    """A checkpoint that is being written by one process or several; made by ``Store.writer()``.

    Each process writes its parts into the same directory of a shared file system, and one of them commits. Until then
    no reader sees anything of it. What fails removes what was written.

    Args:
        directory: the store's directory.
        step: the step.
        run_id: the same for all processes of a run, another for each run.
    """

    def __init__(self, directory: Path, step: int, run_id: str):
        self.step = step
        self.run_id = check_run_id(run_id)
        self.target = directory / step_name(step)
        self.path = directory / f"{INCOMING}{step_name(step)}-{run_id}"
        self._what = f"The checkpoint of step {step} could not be written"
        with writing(self._what, directory):
            disk.make_directories(directory)
            disk.make_directory(self.path)

    def write(self, part: str, arrays: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> Part:
        """Write a part; when this returns, it is on the disk.

        Args:
            part: ``common``, ``common-00001``, ``rank-00003``.
            arrays: NumPy arrays by name.
            meta: JSON to keep beside them.

        Returns:
            Its entry in the manifest.

        Raises:
            UsageError: a name, a type or a meta that the format cannot hold; nothing was written.
            CheckpointWriteError: the disk is full, read-only or broken; what was written is removed.
        """
        check_part(part)
        arrays, meta = check_arrays(arrays), check_json(meta)
        with self._or_drop():
            # Of an earlier attempt, that the part is done would not be true any more.
            disk.unlink(self._record(part))
            written = write_part(self.path / part_file(part), arrays)
            content = {"file": part_file(part), "meta": meta, **vars(written)}
            record = canonical(content)
            entry = parse_part(record, self._record(part))
            disk.replace_file(self._record(part), record)
        return entry

    def commit(
        self,
        parts: list[str],
        *,
        epoch: int,
        world_size: int,
        state: Mapping[str, Any] | None = None,
        deadline_s: float = 600,
        poll: Callable[[], None] = _rest,
    ) -> Path:
        """Wait until all parts are done and make them the checkpoint of the step; one process only.

        Where the step has a checkpoint already, it is replaced, by one that is whole at every moment; where it has the
        same content, as after a resume, it stays and the new one is dropped.

        Args:
            parts: the names of all parts, of all processes.
            epoch: the epoch.
            world_size: the number of ranks.
            state: JSON for all of them; ``state["metrics"]`` is what ``RetentionPolicy(monitor=...)`` looks at.
            deadline_s: how long to wait for the other processes.
            poll: called between two looks; what it raises ends the wait.

        Returns:
            The checkpoint's directory.

        Raises:
            CheckpointWriteError: a part is missing at the deadline, or the disk is full, read-only or broken.
            UsageError: a state that is not JSON.
        """
        for part in parts:
            check_part(part)
        with self._or_drop():
            state = check_json(state)
            entries = self._wait(parts, deadline_s, poll)
            fields = {"step": self.step, "epoch": epoch, "world_size": world_size, "state": state, "parts": entries}
            former = self._former()
            if former is not None and all(getattr(former, name) == value for name, value in fields.items()):
                self.drop()
                return self.target
            fields |= {"created": int(time.time()), "parts": {name: p.model_dump() for name, p in entries.items()}}
            disk.write_file(self.path / MANIFEST, manifest_bytes(fields))
            known = {MANIFEST, *(part.file for part in entries.values())}
            for name in sorted(os.listdir(self.path)):
                if name not in known:  # the parts' records, and names that were not asked for
                    disk.remove_tree(self.path / name)
            disk.sync_directory(self.path)
            self._put_in_place(DAMAGED if former is None else REPLACED)
        return self.target

    def drop(self) -> None:
        """Remove what was written, as far as that is possible; ``Store.clean()`` removes the rest another day."""
        with contextlib.suppress(OSError):
            disk.remove_tree(self.path)

    @contextlib.contextmanager
    def _or_drop(self) -> Iterator[None]:
        try:
            with writing(self._what, self.path):
                yield
        except BaseException:
            self.drop()
            raise

    def _record(self, part: str) -> Path:
        return self.path / f"{part}.json"

    def _wait(self, parts: list[str], deadline_s: float, poll: Callable[[], None]) -> dict[str, Part]:
        """The records of all parts, as soon as they are there."""
        entries: dict[str, Part] = {}
        end = time.monotonic() + deadline_s
        while True:
            for part in self._done(parts):
                if part not in entries:
                    entries[part] = self._read_record(part)
            missing = [part for part in parts if part not in entries]
            if not missing:
                return entries
            if time.monotonic() > end:
                raise CheckpointWriteError(
                    f"{self._what}: after {deadline_s:g} s, {self.path} has no {', '.join(missing)}.",
                    fix="is that directory on a file system that all hosts share? If so, see those ranks' messages.",
                )
            poll()

    def _done(self, parts: list[str]) -> list[str]:
        """The parts that have a record."""
        try:  # not name by name: of a name that was not there NFS may continue to say so for a minute
            names = set(os.listdir(self.path))
        except FileNotFoundError:
            raise CheckpointWriteError(
                f"{self._what}: another process removed {self.path}.", fix="see the messages of that process."
            ) from None
        return [part for part in parts if self._record(part).name in names]

    def _read_record(self, part: str) -> Part:
        path = self._record(part)
        entry = parse_part(read_limited(path, MAX_MANIFEST), path)
        size = (self.path / part_file(part)).stat().st_size
        if (entry.file, entry.bytes) != (part_file(part), size):
            raise DamagedCheckpointError(path, f"it does not fit {part_file(part)}, which has {size} bytes")
        return entry

    def _former(self) -> Manifest | None:
        """What this step's checkpoint says, where there is a valid one already."""
        if not os.path.lexists(self.target):
            return None
        try:
            return Checkpoint(self.target).verify().manifest
        except DamagedCheckpointError:
            return None

    def _put_in_place(self, kind: str) -> None:
        """Give the checkpoint its name; what has it now is set aside under a name of this kind, and removed."""
        aside = self.target.with_name(f"{kind}{self.target.name}-{self.run_id}")
        there = os.path.lexists(self.target)
        if there and kind == REPLACED and disk.exchange(self.path, self.target):
            aside = self.path
        else:
            if there:
                disk.remove_tree(aside)
                disk.rename(self.target, aside)  # Store.clean() takes it back if the next line is not reached
            disk.rename(self.path, self.target)
        disk.sync_directory(self.target.parent)
        if there:
            with contextlib.suppress(OSError):  # the new one is in place; clean() removes what is left
                disk.remove_tree(aside)
