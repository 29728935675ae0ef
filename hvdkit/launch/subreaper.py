"""A process between a launcher and a worker, so that the worker outlives what the launcher does to its children.

A launcher that cleans up kills the process that it started. Were that the worker, what the rank has started would be
an orphan then, and with an environment and a session of its own nothing would show that it was of this run. So the
launcher's child merely passes signals on. Where it is killed, the worker sees a pipe close, ends all of its
descendants, and them alone, and ends itself; where the worker is killed, the launcher's child does so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
# How long a rank may live on without the launcher that started it, and what will not die be waited for; in seconds.
_GRACE_SECONDS = 5.0
_KILL_SECONDS = 10.0


def run_in_child(work: Callable[[int], int], on_signal: Callable[[int], None]) -> int:
    """Do a worker's work in a child process of this one, which does not return, and return its exit code.

    Args:
        work: what the child does. It is given a pipe for ``kill_descendants_with_parent``.
        on_signal: handles SIGTERM, SIGINT, SIGHUP and SIGUSR1 in the child, also those that this process receives.

    Example: ``sys.exit(run_in_child(run_a_rank, pass_on_to_the_rank))``
    """
    launcher = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # until handlers are installed
    adopt_orphans()
    parent_pipe, worker_pipe = os.pipe(), os.pipe()  # closed when this process ends; when the worker ends
    worker = os.fork()
    if not worker:
        os.close(parent_pipe[1])
        os.close(worker_pipe[0])
        os.setsid()  # a launcher kills the group of the process it started
        _on_signals(on_signal)
        sys.exit(work(parent_pipe[0]))
    os.close(parent_pipe[0])
    os.close(worker_pipe[1])

    reaped = False

    def pass_on(number: int) -> None:
        if not reaped:  # afterwards another process may have its number
            with contextlib.suppress(OSError):
                os.kill(worker, number)

    _on_signals(pass_on)
    _wait(worker_pipe[0], launcher, pass_on)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    reaped = True
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    kill_descendants(_KILL_SECONDS)  # where the worker was killed they have become this process' children
    return code if code >= 0 else 128 - code


def kill_descendants_with_parent(pipe: int) -> None:
    """In the worker, from here on: kill what descends from it as soon as the process that keeps it is gone."""

    def watch() -> None:
        os.read(pipe, 1)
        while True:
            _kill_descendants()

    threading.Thread(target=watch, daemon=True, name="subreaper").start()


def adopt_orphans() -> None:
    """Make orphans among this process' descendants its children, where the system can."""
    if _prctl:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def tie_to(parent: int) -> Callable[[], None] | None:
    """What a child calls before its program, so that it dies with its parent; None where the system cannot."""

    def tie() -> None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # the parent died before the line above
            os.kill(os.getpid(), signal.SIGKILL)

    return tie if _prctl else None


def kill_descendants(seconds: float) -> None:
    """Kill what descends from this process and nothing else, also what is started meanwhile; orphans are among it."""
    until = time.monotonic() + seconds
    while has_children() and time.monotonic() < until:
        _kill_descendants()


def has_children() -> bool:
    """Whether this process has a child that lives; those that have ended are taken leave of."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _kill_descendants() -> None:
    import psutil  # seldom wanted, and a good part of what a worker costs

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    time.sleep(0.02)


def _on_signals(on_signal: Callable[[int], None]) -> None:
    for number in _PASSED_ON:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
            signal.signal(number, lambda number, _: on_signal(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)


def _wait(worker_pipe: int, launcher: int, pass_on: Callable[[int], None]) -> None:
    """Wait for the worker's end, and bring it about when the launcher is gone: another parent, or no reader of errors.

    The parent alone does not tell: an ssh session may have ended before this process asked for its parent first. Nor
    does PR_SET_PDEATHSIG: it also fires when merely the launcher's THREAD that started this process ends.
    """
    ends = select.poll()
    ends.register(worker_pipe, 0)  # POLLERR and POLLHUP are always reported, and nothing else is asked for
    with contextlib.suppress(OSError):
        os.fstat(2)  # a launcher may have closed it
        ends.register(2, 0)
    while not (ended := ends.poll(1000)) and os.getppid() == launcher:
        pass
    if worker_pipe in dict(ended):
        return
    pass_on(signal.SIGTERM)
    with contextlib.suppress(KeyError):
        ends.unregister(2)
    if not ends.poll(_GRACE_SECONDS * 1000):
        pass_on(signal.SIGKILL)
