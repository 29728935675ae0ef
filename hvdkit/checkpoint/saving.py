"""``hvd.checkpoint.save``: one checkpoint, now."""

from __future__ import annotations

import os
from typing import Any

import keras

from hvdkit.checkpoint.saver import Saver
from hvdkit.checkpoint.store import Keep
from hvdkit.keras_model import build_optimizer
from hvdkit.numbers import whole


def save(
    model: keras.Model,
    directory: str | os.PathLike,
    step: int,
    *,
    epoch: int = 0,
    facts: dict[str, Any] | None = None,
    keep: Keep | None = None,
) -> None:
    """Save a model's training and wait until it is on the disk; collective. For training loops of one's own.

    Args:
        model: built and compiled.
        directory: of the checkpoints, on a file system that all ranks share.
        step: the training step, counted over all epochs.
        epoch: the epoch to go on with.
        facts: JSON-like data to keep beside it; ``facts["metrics"]`` is what ``keep.best`` looks at.
        keep: which checkpoints stay; the last three by default.

    Raises:
        CheckpointInUseError: another job writes there.
        UsageError: ``step`` or ``epoch`` is no whole number of at least 0.

    Example:

    >>> import tempfile, hvdkit as hvd
    >>> hvd.init()
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    >>> hvd.checkpoint.save(model, tempfile.mkdtemp(), step=1, facts={"metrics": {"loss": 0.5}})
    """
    step, epoch = whole(step, "step", 0), whole(epoch, "epoch", 0)
    build_optimizer(model)
    saver = Saver(directory, keep, background=False)
    try:
        saver.save(model, step, epoch, dict(facts or {}))
    finally:
        saver.close()
