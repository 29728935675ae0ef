"""Checkpoints: what is saved, where, and how it is read again."""

from __future__ import annotations

from typing import Any

from hvdkit.utils.deprecation import warn_deprecated
from hvdkit.utils.registry import lazy

_HOME = {
    "save": "hvdkit.checkpoint.saving:save",
    "restore": "hvdkit.checkpoint.restoring:restore",
    "export": "hvdkit.checkpoint.exporting:export",
    "RetentionPolicy": "hvdkit.checkpoint.storage.retention:RetentionPolicy",
    "Store": "hvdkit.checkpoint.storage.store:Store",
    "Stateful": "hvdkit.utils.stateful:Stateful",
    "Entry": "hvdkit.utils.stateful:Entry",
    "CheckpointInUseError": "hvdkit.checkpoint.storage.lock:CheckpointInUseError",
    "CheckpointWriteError": "hvdkit.checkpoint.storage.writer:CheckpointWriteError",
    "DamagedCheckpointError": "hvdkit.checkpoint.storage.format:DamagedCheckpointError",
    "Preempted": "hvdkit.checkpoint.preemption:Preempted",
}

__all__ = [*_HOME]

_get, __dir__ = lazy(globals(), _HOME)


def __getattr__(name: str) -> Any:
    if name == "Keep":
        warn_deprecated("hvd.checkpoint.Keep", "hvd.checkpoint.RetentionPolicy")
        return _get("RetentionPolicy")
    return _get(name)
