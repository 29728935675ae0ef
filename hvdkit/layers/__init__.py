"""Keras layers for several ranks: one class per file, loaded on first use."""

from __future__ import annotations

from hvdkit.registry import lazy

_HOME = {"SyncBatchNormalization": "hvdkit.layers.sync_batch_norm:SyncBatchNormalization"}

__all__ = [*_HOME]

__getattr__, __dir__ = lazy(globals(), _HOME)
