"""Errors meant for the user: what happened, on which rank, and what to do next.

The command line prints them as they are, without a traceback, and exits with 1. Everything that is not an
``HvdkitError`` is a bug or somebody else's exception and keeps its traceback.
"""

from __future__ import annotations

# A training that was preempted, has saved and should be started again ends with this code on every rank. It is
# EX_TEMPFAIL of sysexits.h, "try again later"; Python, shells and Horovod end with it for no reason of their own.
REQUEUE_EXIT_CODE = 75


class HvdkitError(Exception):
    """What happened, on which rank, and what to do next.

    Args:
        what: one sentence that says what happened and names the variable, the file or the argument.
        fix: what to do next: a command or a change; it is printed on a separate line.
        rank: the rank on which it happened, if it concerns a single rank.

    Example:

    >>> print(HvdkitError("Horovod is not installed.", fix="hvdkit install-horovod", rank=1))
    [rank 1] Horovod is not installed.
      What to do: hvdkit install-horovod
    """

    def __init__(self, what: str, *, fix: str | None = None, rank: int | None = None):
        self.what = what
        self.fix = fix
        self.rank = rank
        text = what if rank is None else f"[rank {rank}] {what}"
        super().__init__(text if fix is None else f"{text}\n  What to do: {fix}")


class UsageError(HvdkitError, ValueError):
    """An argument that cannot be used; also a ``ValueError``."""


class ConfigError(UsageError):
    """A configuration file, an ``HVDKIT_*`` variable or a ``--set`` that does not fit the schema."""


class NotInitializedError(HvdkitError, RuntimeError):
    """A rank, a size or a collective was asked for before ``hvd.init()``."""


class HorovodMissingError(HvdkitError, ImportError):
    """Several ranks were launched, but this Python has no Horovod that can be loaded."""


class HorovodBuildError(HvdkitError, RuntimeError):
    """Building Horovod failed; the message contains the first compiler error and the path of the log."""


class LaunchError(HvdkitError, RuntimeError):
    """The ranks could not be started, or the started world is not the requested one."""


class CommunicationError(HvdkitError, RuntimeError):
    """The ranks did not communicate, disagree, or drifted apart."""


#: How the error of a rank begins that has merely lost another one: by it, who failed first is told from who noticed.
COLLECTIVE_INTERRUPTED = "A collective was interrupted: another rank ended"


def broken_off(said: str, rank: int) -> CommunicationError:
    """The error of a rank whose peers are gone or did not come.

    Args:
        said: what is known of it.
        rank: the rank that notices it.
    """
    return CommunicationError(
        f"{COLLECTIVE_INTERRUPTED} or did not arrive in time ({said}).",
        fix="look for the rank whose own traceback comes first. If every rank shows only this, none failed: one "
        "of them made fewer steps than the others, stopped by itself, or called fit or a collective alone. A model "
        "that one rank trains alone belongs in `with hvd.local_training():`.",
        rank=rank,
    )
