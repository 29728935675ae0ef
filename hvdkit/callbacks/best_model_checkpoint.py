"""The best model so far, in one file that is replaced atomically."""

from __future__ import annotations

import os
from pathlib import Path

from hvdkit.checkpoint.exporting import write_model
from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.keras_internals.models import ModelCheckpoint
from hvdkit.utils.log import get_logger


class BestModelCheckpoint(ModelCheckpoint):
    """Keep the best model in a file: ``keras.callbacks.ModelCheckpoint`` with ``save_best_only=True``, on rank 0.

    Only rank 0 writes and logs; the other ranks keep track of the best value too. Put it after
    ``MetricAverageCallback``, because otherwise rank 0 decides by its own metric. The file is written under a temporary
    name in the same directory and then renamed, so it always contains a complete model, the previous or the new one,
    even after a crash.

    Args:
        monitor: the metric; the names of validation metrics begin with ``val_``.
        verbose: 1 logs when it saves.
        save_weights_only: save weights (``.weights.h5``) instead of the model (``.keras``, or Keras' older ``.h5``).
        mode: ``"min"``, ``"max"``, or ``"auto"``: by the metric's name.
        save_freq: ``"epoch"``, or the number of steps between two checks of the metric.
        filepath: a path of the local file system, which may contain ``{epoch}`` and metrics (``{val_loss:.2f}``). It
            may also be set later, before training begins: ``callback.filepath = ...``.

    Raises:
        UsageError: at the start of training, if ``filepath`` is missing or its suffix is not supported by Keras.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> best = hvd.callbacks.BestModelCheckpoint(monitor="val_accuracy", mode="max")
    >>> best.filepath = "best.keras"
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        *,
        filepath: str | os.PathLike | None = None,
    ):
        # Keras asks for a path here and checks its ending; `filepath` may be set later, and is checked then.
        super().__init__(
            "later.weights.h5" if save_weights_only else "later.keras",
            monitor=monitor,
            verbose=verbose,
            save_best_only=True,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
        )
        self.filepath = filepath

    def on_train_begin(self, logs=None):
        if world.rank() != 0:  # writes nothing and says nothing, so it needs no path either
            self.verbose = 0
            return
        endings = (".weights.h5",) if self.save_weights_only else (".keras", ".h5")
        if self.filepath is None:
            raise UsageError(
                "BestModelCheckpoint does not know where to save, because its `filepath` is not set.",
                fix=f'set callback.filepath = "best{endings[0]}" before fit, or pass filepath= to BestModelCheckpoint.',
            )
        self.filepath = os.fspath(self.filepath)
        if not self.filepath.endswith(endings) or "://" in self.filepath:
            raise UsageError(
                f"BestModelCheckpoint cannot save to {self.filepath!r}.",
                fix=f"a path of the local file system that ends in {' or '.join(endings)}, as "
                f"save_weights_only={self.save_weights_only} asks for.",
            )

    def save_now(self, epoch, batch, logs):
        first = world.rank() == 0
        target = Path(self.path_at(epoch, batch, logs) if first else "")
        if not self.is_wanted(epoch, batch, logs, str(target)) or not first:
            return
        write_model(self.model, target)
        if self.verbose > 0:
            get_logger().info("Epoch %d: finished saving model to %s", epoch + 1, target)
