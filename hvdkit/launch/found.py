"""What there is on this machine to launch with: the edge that feeds ``make_plan``, and nothing else."""

from __future__ import annotations

import importlib.util
import mmap
import os
import shutil
import socket
import sys
from pathlib import Path

from hvdkit.launch.mpirun import parse_version
from hvdkit.launch.plan import Found, HorovodBuild, Request, Tool
from hvdkit.utils import env


def look(request: Request, extra: dict[str, str] | None = None) -> Found:
    """Look at the machine, no further than this request needs.

    Args:
        request: what the user asked for; its hosts are resolved here.
        extra: variables that will be laid over the environment.
    """
    return Found(
        python=sys.executable,
        tools=_tools(request),
        horovod=horovod_build(),
        environ=env.child(extra),
        root=hasattr(os, "geteuid") and os.geteuid() == 0,
        cores=_cores(),
        allocated_nodes=int(env.get("SLURM_JOB_NUM_NODES") or 1),
        unknown_hosts=tuple(host.name for host in request.hosts if not _resolves(host.name)),
    )


def executable(name: str) -> str | None:
    """An executable of this environment first (beside Python), then of PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def horovod_build() -> HorovodBuild | None:
    """What the installed Horovod was built with, read off its library, which is not loaded: that would take seconds."""
    spec = importlib.util.find_spec("horovod")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in Path(folder, "tensorflow").glob("mpi_lib*.so"):
            with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return HorovodBuild(gloo=data.find(b"GlooController") >= 0, mpi=data.find(b"MPIController") >= 0)
    return None


def _tools(request: Request) -> dict[str, Tool]:
    tools = {}
    horovodrun, mpirun = executable("horovodrun"), executable("mpirun")
    if horovodrun:
        tools["horovodrun"] = Tool(horovodrun)
    if mpirun:
        from hvdkit.launch.supervise import output_of

        tools["mpirun"] = parse_version(mpirun, output_of([mpirun, "--version"]))
    return tools


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True
