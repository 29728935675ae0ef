"""The moment from which something may be lost: a rank that is told to end before it loses nothing.

The parent process of a rank (``hvdkit.launch.worker``) gives it a pipe, and looks at the rank's end whether it has
written into it. Who was told to end before its training began ends with 75, as one that has saved.
"""

from __future__ import annotations

import contextlib
import os
import stat

from hvdkit.utils import env

# The descriptor of the pipe and its inode: by its number alone another file might be meant in a process that was
# started by the rank and has inherited the variable, but not the pipe.
PIPE = "HVDKIT_BEGINNING"

_begun = False


def training_begins() -> None:
    """Tell the parent, once, that from now on something may be lost: before the first step or reduction of values.

    Example:

    >>> training_begins()  # has no effect outside of `hvdkit run`
    """
    global _begun
    if _begun:
        return
    _begun = True
    descriptor, _, inode = (env.get(PIPE) or "").partition(":")
    if inode:
        with contextlib.suppress(OSError):  # the pipe is not this process', or the parent is gone
            pipe = os.fstat(int(descriptor))
            if stat.S_ISFIFO(pipe.st_mode) and pipe.st_ino == int(inode):
                os.write(int(descriptor), b".")
