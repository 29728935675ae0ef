"""The only reader of the environment: who launched this process, and which settings came with it.

A launcher tells a process its rank by variables; each launcher has its own. ``launch_info`` reads them in the order
in which they are to be believed: Horovod's own launcher knows best, then MPI, then Slurm.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hvdkit.errors import ConfigError

PREFIX = "HVDKIT_"


@dataclass(frozen=True)
class LaunchInfo:
    """Who launched this process, and its place in the world.

    ``launcher`` is ``"horovodrun"``, ``"mpirun"``, ``"srun"``, or ``"none"`` for a process nobody launched: a world of
    one. ``cross_rank`` is the host's index among the hosts that have this ``local_rank``; a launcher that does not say
    leaves it None.
    """

    launcher: str
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int | None = 1
    cross_rank: int | None = 0
    cross_size: int | None = 1


# launcher -> the variables that hold rank, size, local rank, local size, cross rank, cross size
_LAUNCHERS = (
    (
        "horovodrun",
        ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
        ("HOROVOD_CROSS_RANK", "HOROVOD_CROSS_SIZE"),
    ),
    (
        "mpirun",  # Open MPI
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    ("mpirun", ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"), ("MPI_LOCALNRANKS",)),  # MPICH, Intel MPI
    # SLURM_PROCID and SLURM_NTASKS also stand in a batch script that srun did not start: only a step has these.
    ("srun", ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"), ()),
)


def launch_info(environ: Mapping[str, str] | None = None) -> LaunchInfo:
    """Who launched this process.

    Example:

    >>> launch_info({})
    LaunchInfo(launcher='none', rank=0, size=1, local_rank=0, local_size=1, cross_rank=0, cross_size=1)
    >>> info = launch_info({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
    >>> info.launcher, info.rank, info.size
    ('mpirun', 1, 2)
    """
    environ = os.environ if environ is None else environ
    for launcher, names, more in _LAUNCHERS:
        if names[0] in environ and names[1] in environ:
            values = [_integer(environ, name) for name in (*names, *more)]
            rank, size, local_rank, *rest = [*values, *[None] * 6][:6]
            local_size, cross_rank, cross_size = (*rest, None)[:3]
            return LaunchInfo(launcher, rank, size, local_rank or 0, local_size, cross_rank, cross_size)
    return LaunchInfo("none")


def _integer(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"The environment variable {name} should be a whole number. Received: {value!r}.") from None


def place() -> str:
    """This host and its PID namespace: a PID means nothing in another one."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}"


def get(name: str, default: str | None = None) -> str | None:
    """One variable of the environment, by its full name."""
    return os.environ.get(name, default)


def flag(name: str, default: bool) -> bool:
    """A yes-or-no variable of ours: ``HVDKIT_<NAME>`` is one of 1, true, yes, on or 0, false, no, off.

    Raises:
        ConfigError: it is something else.
    """
    value = os.environ.get(PREFIX + name, "").strip().lower()
    if not value:
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise ConfigError(f"{PREFIX}{name} should be 0 or 1. Received: {value!r}.")


def text(name: str, default: str) -> str:
    """A word of ours, ``HVDKIT_<NAME>``."""
    return os.environ.get(PREFIX + name, "").strip() or default


def number(name: str, default: float) -> float:
    """A number of ours, ``HVDKIT_<NAME>``.

    Raises:
        ConfigError: it is not a number.
    """
    value = os.environ.get(PREFIX + name, "").strip()
    if not value:
        return default
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{PREFIX}{name} should be a number. Received: {value!r}.") from None


def set_default(name: str, value: str) -> None:
    """Set a variable that a library reads when it starts, unless the user has set it."""
    os.environ.setdefault(name, value)


def child(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of the environment for a process that is about to be started, with ``extra`` laid over it."""
    return {**os.environ, **(extra or {})}


@contextlib.contextmanager
def during(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for as long as the block lasts.

    Example:

    >>> with during({"HVDKIT_EXAMPLE": "1"}):
    ...     get("HVDKIT_EXAMPLE")
    '1'
    >>> get("HVDKIT_EXAMPLE") is None
    True
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
