"""What an old script is told: once for each thing, by rank 0; and the errors for what cannot be put into new words."""

from __future__ import annotations

import functools

from hvdkit.errors import UsageError
from hvdkit.launch.identity import launch_info
from hvdkit.utils.log import get_logger


@functools.cache
def say(old: str, new: str) -> None:
    """Say once, on rank 0, what stands for an old name now."""
    if launch_info().rank == 0:
        get_logger().warning("%s: %s", old, new)


class GoneError(UsageError, AttributeError):
    """A name that there is no more; also an ``AttributeError``, so that ``hasattr`` says no."""


class RefusedImportError(UsageError, ImportError):
    """A part of Horovod that hvdkit has nothing for; also an ``ImportError``, so that a script may do without."""
