"""Keras layers for several ranks: one class per file, loaded on first use."""

from __future__ import annotations

from typing import Any

from hvdkit.registry import load

_HOME = {"SyncBatchNormalization": "hvdkit.layers.sync_batch_norm:SyncBatchNormalization"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hvdkit.layers' has no attribute {name!r}. Known: {', '.join(__all__)}.")
    value = load(_HOME[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
