"""Checkpoints: what is saved, where, and how it is read again."""

from __future__ import annotations

from typing import Any

from hvdkit.registry import load

_HOME = {
    "save": "hvdkit.checkpoint.saving:save",
    "restore": "hvdkit.checkpoint.restoring:restore",
    "export": "hvdkit.checkpoint.exporting:export",
    "Keep": "hvdkit.checkpoint.keep:Keep",
    "Store": "hvdkit.checkpoint.store:Store",
    "Preempted": "hvdkit.checkpoint.preemption:Preempted",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hvdkit.checkpoint' has no attribute {name!r}. Known: {', '.join(__all__)}.")
    value = load(_HOME[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
