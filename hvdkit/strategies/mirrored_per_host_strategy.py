"""One process per host, its devices mirrored; Horovod between the hosts."""

from __future__ import annotations

from typing import Any

from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.strategies import devices as pinning
from hvdkit.strategies import wants_every_gpu
from hvdkit.strategies.replicas import mirrored_over


@wants_every_gpu
def mirrored_per_host(devices: list[str] | None = None) -> Any:
    """A replica of the model on each device of this process, and one Horovod reduction per process and step.

    Start one process per host, and let it see all GPUs: ``hvd.init(pin_gpus=False)``. P processes with N devices each
    and ``batch_size=b`` train as one process with batch P*b. In a single process it equals ``hvd.strategies.mirrored``.

    Args:
        devices: such as ``["GPU:0", "GPU:1"]``; None takes every GPU, or every logical CPU if there is no GPU. Name
            them if several processes share a host, because no two processes may use the same device.

    Returns:
        The strategy; create the model and the optimizer, and compile, in ``with strategy.scope():``.

    Raises:
        UsageError: there are several processes on this host and no ``devices``, GPUs were pinned by ``hvd.init()``, or
            a device does not exist or is listed twice.
        NotInitializedError: ``hvd.init()`` was not called.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init(pin_gpus=False)
    >>> strategy = hvd.strategies.mirrored_per_host()
    >>> with strategy.scope():
    ...     pass  # build the model, compile it with hvd.DistributedOptimizer(...)
    """
    check_devices(world.rank(), world.local_size(), pinning.pinned(), devices)
    return mirrored_over(devices)


def check_devices(rank: int, local_size: int, pinned: str | None, devices: list[str] | None) -> None:
    """Refuse what cannot be one set of devices per process.

    >>> check_devices(rank=0, local_size=1, pinned=None, devices=None)
    >>> check_devices(rank=0, local_size=2, pinned=None, devices=["GPU:0", "GPU:1"])
    """
    if pinned:
        raise UsageError(
            f"hvd.init() has pinned this process to {pinned}: it does not see its host's other GPUs.",
            fix="hvd.init(pin_gpus=False) before hvd.strategies.mirrored_per_host().",
            rank=rank,
        )
    if local_size > 1 and devices is None:
        raise UsageError(
            f"{local_size} processes on this host would each take all of its devices.",
            fix="start one process per host (horovodrun -np 2 -H node1:1,node2:1); or give each process its own: "
            "hvd.strategies.mirrored_per_host(devices=['GPU:0', 'GPU:1']) on one, ['GPU:2', 'GPU:3'] on the next.",
            rank=rank,
        )
