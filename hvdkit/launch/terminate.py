"""Every process of a run, and their end. A process belongs to a run by ``HVDKIT_RUN_ID`` in its environment."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection

import psutil

from hvdkit.launch.launcher import LAUNCHERS, launcher
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

    def alive_processes(self) -> list[psutil.Process]:
        """The processes that are alive now, without this one."""
        for process in psutil.process_iter():
            with contextlib.suppress(*_GONE):
                if process.environ().get(RUN_ID) == self._run_id:
                    self._known.add(process)
        for process in list(self._known):
            with contextlib.suppress(*_GONE):
                self._known.update(process.children(recursive=True))
        self._known = {process for process in self._known if process.pid != os.getpid() and _lives(process)}
        return list(self._known)


def terminate(run_id: str, grace_seconds: float, deadline: float = 10.0) -> int:
    """End every process of a run: SIGTERM, ``grace_seconds`` to obey, then SIGKILL until none is left.

    Returns:
        How many were left when it gave up, ``deadline`` seconds after the first SIGKILL; 0 is what to expect.
    """
    members = Members(run_id)
    left = members.alive_processes()
    first = [(_name(process), process.pid) for process in left]
    if left and grace_seconds > 0:
        _send(left, "terminate")
        psutil.wait_procs(left, timeout=grace_seconds)
        left = members.alive_processes()
    until = time.monotonic() + deadline
    while left and time.monotonic() < until:
        _send(left, "kill")
        psutil.wait_procs(left, timeout=0.5)
        left = members.alive_processes()
    remove_sessions(first)
    return len(left)


def remove_sessions(processes: Collection[tuple[str, int]]) -> None:
    """Remove what killed processes of a launcher have left behind, except those whose process id is in use.

    Args:
        processes: the name and the id of each.
    """
    for known in map(launcher, LAUNCHERS.names()):
        for name, pid in processes:
            if name in known.leaves_sessions and not is_alive(pid):
                known.remove_session(pid, env.child())


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


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(*_GONE):
        return process.name()
    return ""


def _send(processes: list[psutil.Process], method: str) -> None:
    for process in processes:
        with contextlib.suppress(*_GONE):
            getattr(process, method)()
