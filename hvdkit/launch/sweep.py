"""Every process of a run, and their end. A process belongs to a run by ``HVDKIT_RUN_ID`` in its environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil

from hvdkit.launch.plan import RUN_ID
from hvdkit.utils import env

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError)


class Members:
    """The processes of a run on this host: those that carry its id, and their descendants, which may have dropped it.

    Who was seen once as a descendant stays one, though the processes between have ended.
    """

    def __init__(self, run_id: str):
        self._run_id = run_id
        self._known: set[psutil.Process] = set()

    def living(self) -> list[psutil.Process]:
        """Those that live now, but for this process."""
        for process in psutil.process_iter():
            with contextlib.suppress(*_GONE):
                if process.environ().get(RUN_ID) == self._run_id:
                    self._known.add(process)
        for process in list(self._known):
            with contextlib.suppress(*_GONE):
                self._known.update(process.children(recursive=True))
        self._known = {process for process in self._known if process.pid != os.getpid() and _lives(process)}
        return list(self._known)


def sweep(run_id: str, patience: float, deadline: float = 10.0) -> int:
    """End every process of a run: SIGTERM, ``patience`` seconds to obey, then SIGKILL until none is left.

    Returns:
        How many were left when it gave up, ``deadline`` seconds after the first SIGKILL; 0 is what to expect.
    """
    members = Members(run_id)
    left = members.living()
    mpiruns = [process.pid for process in left if _is_mpirun(process)]
    if left and patience > 0:
        _send(left, "terminate")
        psutil.wait_procs(left, timeout=patience)
        left = members.living()
    until = time.monotonic() + deadline
    while left and time.monotonic() < until:
        _send(left, "kill")
        psutil.wait_procs(left, timeout=0.5)
        left = members.living()
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


def _lives(process: psutil.Process) -> bool:
    """Whether it still is the same process, and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
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
