"""Who launched this process, and which of the ranks it is. Each launcher tells it by variables of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hvdkit.errors import ConfigError
from hvdkit.launch.launcher import LAUNCHERS, RankVariables, launcher
from hvdkit.utils import env, log


@dataclass(frozen=True)
class LaunchInfo:
    """Who launched this process, and its place in the world.

    ``launcher`` is a name in ``LAUNCHERS``, or ``"none"`` for a process without a launcher: a single process.
    ``cross_rank`` is the host's index among the hosts that have this ``local_rank``; a launcher that does not say
    leaves it None.
    """

    launcher: str
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int | None = 1
    cross_rank: int | None = 0
    cross_size: int | None = 1


def launch_info(environ: Mapping[str, str] | None = None) -> LaunchInfo:
    """Who launched this process.

    Args:
        environ: another environment than this process'.

    Raises:
        ConfigError: one of the launcher's variables is not a number.

    Example:

    >>> launch_info({})
    LaunchInfo(launcher='none', rank=0, size=1, local_rank=0, local_size=1, cross_rank=0, cross_size=1)
    >>> info = launch_info({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
    >>> info.launcher, info.rank, info.size
    ('mpirun', 1, 2)
    """
    environ = env.child() if environ is None else environ
    for name in LAUNCHERS.names():
        for variables in launcher(name).variables:
            if variables.rank in environ and variables.size in environ:
                return _read(name, variables, environ)
    return LaunchInfo("none")


def _read(name: str, variables: RankVariables, environ: Mapping[str, str]) -> LaunchInfo:
    values = {field: _integer(environ, variable) for field, variable in variables._asdict().items()}
    return LaunchInfo(name, **{**values, "local_rank": values["local_rank"] or 0})


def _integer(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"The environment variable {name} should be a whole number. Received: {value!r}.") from None


def _rank_and_size() -> tuple[int, int]:
    info = launch_info()
    return info.rank, info.size


log.rank_and_size = _rank_and_size
