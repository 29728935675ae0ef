"""Deprecation warnings for old scripts, once for each name on rank 0, and the errors for what has no equivalent."""

from __future__ import annotations

import functools

from hvdkit.errors import UsageError
from hvdkit.launch.identity import launch_info
from hvdkit.utils.log import get_logger


@functools.cache
def warn_once(old: str, new: str) -> None:
    """Warn once, on rank 0, about an old name, with what to write instead."""
    if launch_info().rank == 0:
        get_logger().warning("%s: %s", old, new)


class GoneError(UsageError, AttributeError):
    """A name that no longer exists; also an ``AttributeError``, so that ``hasattr`` returns False."""


class RefusedImportError(UsageError, ImportError):
    """A part of Horovod that has no shim; also an ``ImportError``, so that a script may do without it."""
