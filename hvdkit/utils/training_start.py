"""The moment from which something may be lost, and that from which a rank only waits for the others to end.

The parent process of a rank (``hvdkit.launch.worker``) gives it a pipe, and looks at the rank's end at what it has
written into it. Who was told to end before its training began has lost nothing and ends with 75, as one that has saved.
Who had come to its own end before it was told to has left the others, which failed by that.
"""

from __future__ import annotations

import contextlib
import os
import stat

from hvdkit.utils import env

# The descriptor of the pipe and its inode: by its number alone another file might be meant in a process that was
# started by the rank and has inherited the variable, but not the pipe.
PIPE = "HVDKIT_BEGINNING"

# What is written into it.
BEGUN, LEFT = b".", b"|"

_told: set[bytes] = set()


def training_begins() -> None:
    """Tell the parent, once, that from now on something may be lost: before the first step or reduction of values.

    Example:

    >>> training_begins()  # has no effect outside of `hvdkit run`
    """
    _tell(BEGUN)


def rank_leaves() -> None:
    """Tell the parent that this rank has come to its end in good order, and waits until the others have too.

    Example:

    >>> rank_leaves()  # has no effect outside of `hvdkit run`
    """
    _tell(LEFT)


def _tell(what: bytes) -> None:
    if what in _told:
        return
    _told.add(what)
    descriptor, _, inode = (env.get(PIPE) or "").partition(":")
    if inode:
        with contextlib.suppress(OSError):  # the pipe is not this process', or the parent is gone
            pipe = os.fstat(int(descriptor))
            if stat.S_ISFIFO(pipe.st_mode) and pipe.st_ino == int(inode):
                os.write(int(descriptor), what)
