"""Checkpoints: what is saved, where, and how it is read again."""

from __future__ import annotations

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

__getattr__, __dir__ = lazy(globals(), _HOME, {"Keep": "RetentionPolicy"})
