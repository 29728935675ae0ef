"""Every process of a run, and their end. A process belongs to a run by ``HVDKIT_RUN_ID`` in its environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil

from hvdkit import env
from hvdkit.launch.plan import RUN_ID

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError)


def members(run_id: str) -> list[psutil.Process]:
    """The living processes of a run on this host, and their descendants even where those dropped the variable."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(*_GONE):
            if process.environ().get(RUN_ID) == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
                found.update((child.pid, child) for child in process.children(recursive=True))
    found.pop(os.getpid(), None)
    return list(found.values())


def sweep(run_id: str, patience: float, deadline: float = 10.0) -> int:
    """End every process of a run: SIGTERM, ``patience`` seconds to obey, then SIGKILL until none is left.

    Returns:
        How many were left when it gave up, ``deadline`` seconds after the first SIGKILL; 0 is what to expect.
    """
    left = members(run_id)
    mpiruns = [process.pid for process in left if _is_mpirun(process)]
    if left and patience > 0:
        _send(left, "terminate")
        psutil.wait_procs(left, timeout=patience)
        left = members(run_id)
    until = time.monotonic() + deadline
    while left and time.monotonic() < until:
        _send(left, "kill")
        psutil.wait_procs(left, timeout=0.5)
        left = members(run_id)
    for pid in mpiruns:
        remove_session(pid)
    return len(left)


def remove_session(mpirun: int) -> None:
    """Remove what the mpirun of Open MPI 5 with this process id left behind, unless a living process has that id.

    Where it was killed its session directory stays, and the next mpirun that the system gives this process id ends with
    "The PMIx server's listener thread failed to start".
    """
    if is_alive(mpirun):
        return
    named = [env.get(f"PRTE_MCA_prte_{which}tmpdir_base") for which in ("local_", "")]
    base = next(filter(None, named), tempfile.gettempdir())
    shutil.rmtree(Path(base, f"ompi.{mpirun}"), ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether a process on this host has this id and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_mpirun(process: psutil.Process) -> bool:
    # Only these: containers that share /tmp may have the other ids in use, by an mpirun that lives.
    with contextlib.suppress(*_GONE):
        return process.name() in ("mpirun", "mpiexec", "prterun")
    return False


def _send(processes: list[psutil.Process], how: str) -> None:
    for process in processes:
        with contextlib.suppress(*_GONE):
            getattr(process, how)()
