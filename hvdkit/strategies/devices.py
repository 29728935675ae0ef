"""The choice of one GPU per rank."""

from __future__ import annotations

from hvdkit.errors import LaunchError
from hvdkit.utils.log import get_logger

_pinned: str | None = None


def choose_device(n_devices: int, local_rank: int, local_size: int) -> int | None:
    """The index of the device this rank uses among those it sees, or None where it sees none.

    A launcher that already gives each rank a GPU of its own (``srun --gpus-per-task=1``) leaves one visible: that one.

    >>> [choose_device(4, r, 4) for r in range(4)]
    [0, 1, 2, 3]
    >>> choose_device(1, 3, 4), choose_device(0, 0, 1)
    (0, None)

    Raises:
        LaunchError: more ranks on this host than GPUs, where the ranks see several: two would share one.
    """
    if n_devices == 0:
        return None
    if n_devices == 1:
        return 0
    if local_size > n_devices:
        raise LaunchError(
            f"{local_size} ranks on this host see {n_devices} GPUs: two ranks would share one.",
            fix=f"start at most {n_devices} ranks per host, or hvd.init(pin_gpus=False) to place them yourself.",
        )
    return local_rank


def pin(local_rank: int, local_size: int, kind: str = "GPU") -> str | None:
    """Make one GPU visible to TensorFlow: the one with this host's ``local_rank``.

    Args:
        local_rank, local_size: this rank's number on its host, and how many ranks there are.
        kind: the device type.

    Returns:
        The device's name, or None where there is none.

    Raises:
        LaunchError: there are more ranks than GPUs, or TensorFlow has already started its devices.
    """
    import tensorflow as tf

    devices = tf.config.list_physical_devices(kind)
    index = choose_device(len(devices), local_rank, local_size)
    if index is None:
        return None
    if len(devices) == 1 and local_size > 1:
        get_logger().info(
            "each rank sees one %s; if all ranks see the same one (without --gpus-per-task), they share it.", kind
        )
    device = devices[index]
    try:
        tf.config.set_visible_devices([device], kind)
    except RuntimeError as error:
        raise LaunchError(
            f"TensorFlow had already started its devices when hvd.init() wanted to pin {device.name}.",
            fix="call hvd.init() before anything that makes a tensor, a variable or a model.",
        ) from error
    global _pinned
    _pinned = device.name if len(devices) > 1 else None
    return device.name


def pinned() -> str | None:
    """The one device that ``pin`` left visible, where it hid others from this process."""
    return _pinned
