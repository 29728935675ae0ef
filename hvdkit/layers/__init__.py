"""Keras layers for several ranks, and one-liners about layers: one thing per file, loaded on first use."""

from __future__ import annotations

from hvdkit.utils.registry import lazy

_HOME = {
    "SyncBatchNormalization": "hvdkit.layers.sync_batch_norm:SyncBatchNormalization",
    "with_batch_norm": "hvdkit.layers.batch_norm:with_batch_norm",
    "zero_last_gamma": "hvdkit.layers.zero_gamma:zero_last_gamma",
}

__all__ = [*_HOME]

__getattr__, __dir__ = lazy(globals(), _HOME)
