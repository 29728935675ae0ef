"""A ``MirroredStrategy`` over the right devices."""

from __future__ import annotations

from typing import Any

from hvdkit.comm import world
from hvdkit.errors import UsageError


def mirrored_over(devices: list[str] | None) -> Any:
    """A ``tf.distribute.MirroredStrategy`` over devices that are there.

    Args:
        devices: such as ``["GPU:0", "GPU:1"]``; None takes every GPU, or every logical CPU if there is no GPU.

    Raises:
        UsageError: a device is not there, or stands there twice, or there is none in the list.
    """
    import tensorflow as tf

    gpus, cpus = (_names(tf.config.list_logical_devices(kind)) for kind in ("GPU", "CPU"))
    return tf.distribute.MirroredStrategy(choose_devices(devices, gpus, cpus, world.rank()))


def choose_devices(devices: list[str] | None, gpus: list[str], cpus: list[str], rank: int = 0) -> list[str]:
    """The devices to mirror on, among those this process has.

    >>> choose_devices(None, [], ["CPU:0", "CPU:1"])
    ['CPU:0', 'CPU:1']
    >>> choose_devices(["/gpu:1"], ["GPU:0", "GPU:1"], ["CPU:0"])
    ['GPU:1']
    """
    if devices is None:
        return gpus or cpus
    chosen = [str(device).upper().rpartition("/")[2].removeprefix("DEVICE:") for device in devices]
    known = [*gpus, *cpus]
    missing = [given for given, name in zip(devices, chosen, strict=True) if name not in known]
    if missing:
        raise UsageError(f"There is no device {missing[0]!r} here. Known: {', '.join(known)}.", rank=rank)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"`devices` must name each device once, and at least one. Received: {devices!r}.", rank=rank)
    return chosen


def _names(logical: list) -> list[str]:
    """``/device:GPU:0`` as users write it."""
    return [device.name.rpartition("device:")[2] for device in logical]
