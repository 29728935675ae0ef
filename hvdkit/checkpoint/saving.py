"""``hvd.checkpoint.save``: one checkpoint, now."""

from __future__ import annotations

import os
from typing import Any

import keras

from hvdkit.checkpoint.saver import Saver
from hvdkit.checkpoint.state_schema import check_metadata
from hvdkit.checkpoint.storage.store import RetentionPolicy
from hvdkit.comm import world
from hvdkit.comm.consistency import raise_on_any_rank
from hvdkit.keras_internals.model_contents import build_optimizer
from hvdkit.utils.deprecation import renamed_arguments
from hvdkit.utils.log import get_logger
from hvdkit.utils.numbers import whole


@renamed_arguments(facts="metadata")
def save(
    model: keras.Model,
    directory: str | os.PathLike,
    step: int,
    *,
    epoch: int = 0,
    metadata: dict[str, Any] | None = None,
    keep: RetentionPolicy | int | None = None,
) -> None:
    """Save a model's training and wait until it is on the disk; collective. For custom training loops.

    Args:
        model: built and compiled.
        directory: of the checkpoints, on a file system that all ranks share.
        step: the training step, counted over all epochs. A checkpoint that this step has already is replaced; whenever
            that is broken off, the old one or the new one is there, whole. Of newer ones a warning says that
            ``restore`` would resume from them.
        epoch: the epoch to resume with.
        metadata: JSON-like data to keep beside it; ``metadata["metrics"]`` is what ``keep.best`` looks at.
        keep: which checkpoints stay, or how many of the newest; three by default. The one that is saved always does.

    Raises:
        CheckpointInUseError: another job writes to the directory.
        UsageError: ``step`` or ``epoch`` is not an integer of at least 0, or ``metadata`` uses a name of hvdkit's.

    Example:

    >>> import tempfile, hvdkit as hvd
    >>> hvd.init()
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    >>> hvd.checkpoint.save(model, tempfile.mkdtemp(), step=1, metadata={"metrics": {"loss": 0.5}})
    """
    step, epoch = whole(step, "step", 0), whole(epoch, "epoch", 0)
    metadata, keep = check_metadata(metadata), RetentionPolicy.parse(keep)
    build_optimizer(model)
    saver = Saver(directory, keep, background=False)
    try:
        newer = [other for other in saver.store.steps() if other > step] if world.rank() == 0 else []
        if newer:
            get_logger().warning(
                "Saving step %d in %s, which has newer checkpoints, up to step %d: hvd.checkpoint.restore(model, "
                "directory) resumes from the newest. Remove them, or give another training another directory.",
                step, directory, newer[0],
            )  # fmt: skip
        raise_on_any_rank("save", lambda: saver.save(model, step, epoch, metadata), by="hvd.checkpoint.save")
    finally:
        saver.close()
