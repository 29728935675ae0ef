"""Whether this program is ending because of an exception that nobody has caught: at its exit Python does not say."""

from __future__ import annotations

import functools
import sys

_exceptions: list[BaseException] = []


@functools.cache
def watch() -> None:
    """Remember such an exception from here on; what showed it before still does."""
    shown = sys.excepthook

    def remember(kind, error, traceback):
        _exceptions.append(error)
        shown(kind, error, traceback)

    sys.excepthook = remember


def has_come() -> bool:
    """Whether there has been one.

    Example:

    >>> watch()
    >>> has_come()
    False
    """
    return bool(_exceptions)
