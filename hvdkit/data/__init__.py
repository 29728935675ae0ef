"""Data shared out over the ranks: every sample once per epoch, with a place that can be found again."""

from __future__ import annotations

from typing import Any

from hvdkit.registry import load

_HOME = {
    "shard": "hvdkit.data.sharding:shard",
    "class_weights": "hvdkit.data.classes:class_weights",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hvdkit.data' has no attribute {name!r}. Known: {', '.join(__all__)}.")
    value = load(_HOME[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
