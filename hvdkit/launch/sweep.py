"""Every process of a run, and their end. A process belongs to a run by ``HVDKIT_RUN_ID`` in its environment."""

from __future__ import annotations

import contextlib
import os
import time

import psutil

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
    if left and patience > 0:
        _send(left, "terminate")
        psutil.wait_procs(left, timeout=patience)
        left = members(run_id)
    until = time.monotonic() + deadline
    while left and time.monotonic() < until:
        _send(left, "kill")
        psutil.wait_procs(left, timeout=0.5)
        left = members(run_id)
    return len(left)


def _send(processes: list[psutil.Process], how: str) -> None:
    for process in processes:
        with contextlib.suppress(*_GONE):
            getattr(process, how)()
