"""``horovod.keras.callbacks``, where they differ from those of ``horovod.tensorflow.keras``."""

from __future__ import annotations

from hvdkit import callbacks

__all__ = ["BestModelCheckpoint"]


class BestModelCheckpoint(callbacks.BestModelCheckpoint):
    """``hvd.callbacks.BestModelCheckpoint``, whose third argument is ``mode`` here; whole models only."""

    def __init__(self, monitor: str = "val_loss", verbose: int = 0, mode: str = "auto", save_freq: str | int = "epoch"):
        super().__init__(monitor, verbose, save_weights_only=False, mode=mode, save_freq=save_freq)
