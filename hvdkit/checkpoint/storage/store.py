"""A directory of checkpoints: writes a new one, finds the newest valid one, and removes old ones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.format import DamagedCheckpointError, damage, step_name, step_of
from hvdkit.checkpoint.storage.reader import Checkpoint
from hvdkit.checkpoint.storage.retention import RetentionPolicy
from hvdkit.checkpoint.storage.writer import (
    DAMAGED,
    DELETING,
    INCOMING,
    REPLACED,
    CheckpointWriteError,
    CheckpointWriter,
    check_run_id,
    writing,
)
from hvdkit.errors import UsageError
from hvdkit.utils.deprecation import warn_deprecated

__all__ = [
    "Checkpoint",
    "CheckpointWriteError",
    "CheckpointWriter",
    "DamagedCheckpointError",
    "RetentionPolicy",
    "Store",
]

_LEFT_OVER = re.compile(
    rf"(?P<kind>{'|'.join(map(re.escape, (INCOMING, DAMAGED, DELETING, REPLACED)))})"
    r"(?P<name>step-\d{9,12})(-(?P<run>.+))?",
    re.ASCII,
)


def absolute(directory: str | os.PathLike) -> Path:
    """A directory of checkpoints, from the root.

    Raises:
        UsageError: it is no path, or an empty one, which would be the working directory.
    """
    if not isinstance(directory, str | os.PathLike) or not os.fspath(directory) or b"\0" in os.fsencode(directory):
        raise UsageError(
            f"A directory of checkpoints must be a path. Received: {directory!r}.", fix='"." is the working directory.'
        )
    return Path(os.path.abspath(os.fsdecode(directory)))


class Store:
    """A directory of checkpoints.

    A committed checkpoint is either complete under its name or does not exist, even after a crash or a power loss
    between any two operations.

    Args:
        directory: the directory, which is created when the first checkpoint is written.

    Example:

    >>> import tempfile
    >>> import numpy as np
    >>> store = Store(tempfile.mkdtemp())
    >>> for step in (10, 20):
    ...     writer = store.writer(step, run_id="a")
    ...     _ = writer.write("common", {"x": np.full(3, step)})
    ...     _ = writer.commit(["common"], epoch=1, world_size=1)
    >>> store.steps(), store.newest_valid().get("common", "x").tolist()
    ([20, 10], [20, 20, 20])
    >>> store.prune(RetentionPolicy(last=1))
    [10]
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = absolute(directory)

    def path(self, step: int) -> Path:
        """The directory of a step's checkpoint; during a replacement, or if it was interrupted, the old one."""
        path = self.directory / step_name(step)
        return path if os.path.lexists(path) else self.directory / self._set_aside_for_new().get(step, path.name)

    def writer(self, step: int, run_id: str) -> CheckpointWriter:
        """Start a new checkpoint. All processes of a run that name the same step write the same one.

        Raises:
            UsageError: the step or the run_id cannot be part of a directory's name.
            CheckpointWriteError: the directory cannot be created.
        """
        return CheckpointWriter(self.directory, step, run_id)

    def draft(self, step: int, run_id: str) -> CheckpointWriter:
        """``writer``; deprecated."""
        warn_deprecated("Store.draft", "Store.writer")
        return self.writer(step, run_id)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first; their validity is not checked."""
        steps = {step_of(name) for name in self._names()} | self._set_aside_for_new().keys()
        return sorted(steps - {None}, reverse=True)

    def _set_aside_for_new(self) -> dict[int, str]:
        """The names of checkpoints that had to make room for new ones, where no names can be exchanged."""
        matches = filter(None, map(_LEFT_OVER.fullmatch, self._names()))
        return {step_of(match["name"]): match[0] for match in matches if match["kind"] == REPLACED}

    def open(self, step: int) -> Checkpoint:
        """Open a step's checkpoint, and check its manifest and the lengths of its files. This is fast for any size.

        Raises:
            DamagedCheckpointError: it does not exist, or is damaged.
        """
        return Checkpoint(self.path(step))

    def verify(self, step: int) -> Checkpoint:
        """Open a step's checkpoint, and check every byte of it.

        Raises:
            DamagedCheckpointError: it is not there, or not what was written; the message names the file.
        """
        return self.open(step).verify()

    def newest_valid(
        self,
        skipped: Callable[[int, DamagedCheckpointError], None] | None = None,
        check: Callable[[Checkpoint], Any] | None = None,
    ) -> Checkpoint | None:
        """The newest checkpoint that is valid in every byte, or None.

        Args:
            skipped: called with each newer step that is damaged, and the reason.
            check: a further check; it raises ``DamagedCheckpointError`` if it fails.
        """
        for step in self.steps():
            try:
                checkpoint = self.verify(step)
                if check is not None:
                    check(checkpoint)
                return checkpoint
            except DamagedCheckpointError as error:
                if skipped is not None:
                    skipped(step, error)
        return None

    def clean(self, run_id: str) -> list[str]:
        """Remove unfinished checkpoints of other runs. Only the job that owns the directory may call it, at its start.

        If the replacement of a checkpoint was interrupted, the old checkpoint is restored.

        Args:
            run_id: this run, whose unfinished checkpoints are kept.

        Returns:
            The removed names.

        Raises:
            CheckpointWriteError: something could not be removed.
        """
        check_run_id(run_id)
        removed = []
        for name in self._names():
            match = _LEFT_OVER.fullmatch(name)
            if not match or (match["kind"] == INCOMING and match["run"] == run_id):
                continue
            with writing("What another run left could not be removed", self.directory):
                if match["kind"] == REPLACED and not os.path.lexists(self.directory / match["name"]):
                    disk.rename(self.directory / name, self.directory / match["name"])
                    disk.sync_directory(self.directory)
                else:
                    disk.remove_tree(self.directory / name)
                    removed.append(name)
        return removed

    def prune(self, keep: RetentionPolicy, *, valid: int | None = None, dry_run: bool = False) -> list[int]:
        """Remove the checkpoints that ``keep`` does not keep, except the newest valid one.

        If no checkpoint is valid, nothing is removed. To find the newest valid one, checkpoints are read completely,
        from the newest to the first valid one.

        Args:
            keep: which checkpoints to keep.
            valid: a step that this process has just committed. It is known to be valid without reading it, and is kept.
            dry_run: only return the steps that would be removed.

        Returns:
            The removed steps, newest first.

        Raises:
            CheckpointWriteError: one could not be removed.
        """
        steps = self.steps()
        gone = [step for step in steps if step not in keep.choose(steps, self._metrics)]
        if not gone:
            return []
        stay = {valid}
        if valid is None or valid != steps[0]:
            newest = self.newest_valid()
            if newest is None:  # perhaps the disk is what is wrong
                return []
            stay.add(newest.manifest.step)
        gone = [step for step in gone if step not in stay]
        if not gone or dry_run:
            return gone
        with writing("Old checkpoints could not be removed", self.directory):
            aside = [self._set_aside(step) for step in gone]
            # Before the first file goes, no crash may bring a name back.
            disk.sync_directory(self.directory)
            for path in aside:
                disk.remove_tree(path)
        return gone

    def _set_aside(self, step: int) -> Path:
        aside = self.directory / f"{DELETING}{step_name(step)}"
        disk.remove_tree(aside)
        disk.rename(self.path(step), aside)
        return aside

    def _metrics(self, step: int) -> dict[str, Any]:
        try:
            metrics = self.open(step).manifest.state.get("metrics")
        except DamagedCheckpointError:
            return {}
        return metrics if isinstance(metrics, dict) else {}

    def _names(self) -> list[str]:
        with damage(self.directory):
            return sorted(os.listdir(self.directory)) if self.directory.exists() else []
