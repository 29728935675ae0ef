"""Data sharded over the ranks: every sample once per epoch, with a position that a checkpoint restores."""

from __future__ import annotations

from hvdkit.utils.registry import lazy

_HOME = {
    "shard": "hvdkit.data.sharding:shard",
    "class_weights": "hvdkit.data.classes:class_weights",
    "mark_variable": "hvdkit.data.sample_dependence:mark_variable",
}

__all__ = [*_HOME]

__getattr__, __dir__ = lazy(globals(), _HOME)
