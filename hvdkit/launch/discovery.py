"""What there is on this machine to launch with: the edge that feeds ``make_plan``, and nothing else."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from hvdkit import engines
from hvdkit.engines import ENGINES
from hvdkit.launch.launcher import LAUNCHERS, Tool, launcher
from hvdkit.launch.plan import Request, SystemInfo
from hvdkit.utils import env


def tools() -> dict[str, Tool]:
    """The launchers' executables that are there, by the launcher's name."""
    known_tools = {name: launcher(name).tool() for name in LAUNCHERS.names()}
    return {name: tool for name, tool in known_tools.items() if tool}


def pairs(tools: Mapping[str, Tool], installed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each launcher with each engine that its ranks can use; the engine that is tried first comes first.

    Args:
        tools: what ``tools`` has returned.
        installed: what ``hvdkit.engines.installed`` has returned.

    Example:

    >>> pairs({"mpirun": Tool("/env/mpirun"), "srun": Tool("/bin/srun")}, {"mpi": "4.1.2"})
    [('mpirun', 'mpi'), ('srun', 'mpi')]
    """
    able = {name: engines.usable(ENGINES.names(), launcher(name).rendezvous, installed) for name in tools}
    return [(name, engine) for engine in ENGINES.names() for name in tools if engine in able[name]]


def detect(request: Request, extra: dict[str, str] | None = None) -> SystemInfo:
    """Look at the machine.

    Args:
        request: what the user asked for; its hosts are resolved here.
        extra: variables that will be laid over the environment.
    """
    return SystemInfo(
        python=sys.executable,
        tools=tools(),
        engines=engines.installed(),
        environ=env.child(extra),
        root=hasattr(os, "geteuid") and os.geteuid() == 0,
        cores=_cores(),
        allocated_nodes=int(env.get("SLURM_JOB_NUM_NODES") or 1),
        unknown_hosts=tuple(host.name for host in request.hosts if not _resolves(host.name)),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True
