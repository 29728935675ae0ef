"""One process with several devices: ``tf.distribute.MirroredStrategy`` alone."""

from __future__ import annotations

from typing import Any

from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.strategies import wants_every_gpu
from hvdkit.strategies.replicas import mirrored_over


@wants_every_gpu
def mirrored(devices: list[str] | None = None) -> Any:
    """One process with a replica of the model on each of its devices. It needs neither a launcher nor Horovod.

    With ``hvd.DistributedOptimizer``, clipping, ``gradient_accumulation_steps`` and a ``LossScaleOptimizer`` apply to
    the gradient of the complete batch, as they do on one device. With a plain optimizer Keras clips each replica's
    gradient, refuses to accumulate, and detects NaN on the first replica only.

    Args:
        devices: such as ``["GPU:0", "GPU:1"]``; None takes every GPU, or every logical CPU if there is no GPU.

    Returns:
        The strategy; create the model and the optimizer, and compile, in ``with strategy.scope():``.

    Raises:
        UsageError: there are several ranks, or a device does not exist or is listed twice.
        NotInitializedError: ``hvd.init()`` was not called.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.strategies.mirrored(["CPU:0"]).num_replicas_in_sync
    1
    """
    if world.size() > 1:
        raise UsageError(
            f"hvd.strategies.mirrored() is for one process, but this is a world of {world.size()}: nothing would join "
            "the processes' replicas.",
            fix="hvd.strategies.mirrored_per_host() with one process per host; or no strategy, and a process per GPU.",
            rank=world.rank(),
        )
    return mirrored_over(devices)
