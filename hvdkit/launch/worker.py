"""``python -m hvdkit.launch.worker SCRIPT ARGS``: the small parent process of one rank.

A launcher starts it in the rank's place, and it starts ``python SCRIPT ARGS`` as its child: passes output on, passes
signals on, and records how the rank ended, with the last lines of its standard error. The child dies with
it, the child's own children die with the child, and the exit code is the child's (128 + N for signal N). Nothing heavy
is imported here: it costs a rank about a tenth of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from hvdkit import env
from hvdkit.launch import records, streams
from hvdkit.launch.plan import RUN_DIR, RUN_ID

PRIVATE_FILE = "private.json"
PRIVATE_NAMES = "HVDKIT_PRIVATE_VARIABLES"

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINUX = sys.platform == "linux"
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# How long the rank's own children (data loaders) may outlive it, and a rank the launcher that started it; in seconds.
_AFTERLIFE = 2.0
_OBEY = 5.0
# How long one rank that saved and left waits for the others; less than the grace `hvdkit run` gives them.
_COMPANY = 10.0


def main(program: list[str]) -> int:
    """Run one rank; returns its exit code."""
    info = env.launch_info()
    run_id, run_dir = env.get(RUN_ID, ""), env.get(RUN_DIR, "")
    me = records.Record(info.rank, socket.gethostname(), env.place(), os.getpid())
    if run_dir:
        records.write(run_dir, me)
    ordered: list[int] = []
    child = _start(program, _environment(run_dir, me), info)
    for number in _FORWARDED:
        signal.signal(number, lambda number, _: _pass_on(child, number, ordered))
    threading.Thread(target=_watch_launcher, args=(child, ordered), daemon=True).start()
    tail = streams.Tail()
    pumps = _pumps(child, info, tail)
    code = child.wait()
    ended = time.time()
    _end_descendants()
    for pump in pumps:
        pump.join(10)
    record = replace(
        me,
        code=code if code >= 0 else 128 - code,
        signal=max(-code, 0),
        ordered=ordered[0] if ordered else 0,
        ended=ended,
        tail=tail.text(),
    )
    if run_id and not records.write(run_dir, record):
        with contextlib.suppress(OSError):
            streams.write_all(2)(records.to_line(run_id, record))
    for pump in pumps:
        pump.join()
    if record.saved:
        _leave_together(run_dir, ordered)
    return record.code


def _environment(run_dir: str, me: records.Record) -> dict[str, str]:
    """The rank's environment, with the variables that were kept off the launcher's command line."""
    names = env.get(PRIVATE_NAMES)
    if not names:
        return env.child()
    try:
        values = json.loads(Path(run_dir, PRIVATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = {}
        text = f"hvdkit: rank {me.rank} on {me.host} does not get {names}: horovodrun would show them to every user, "
        print(f"{text}and the private file that carries them is on another host.", file=sys.stderr)  # noqa: T201
        print("  What to do: hvdkit run --launcher mpirun, or read them from a file.", file=sys.stderr)  # noqa: T201
    environ = env.child(values)
    environ.pop(PRIVATE_NAMES)
    return environ


def _start(program: list[str], environ: dict[str, str], info: env.LaunchInfo) -> subprocess.Popen:
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl if _LINUX else None

    def tie_to_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # the parent died before the line above
            os.kill(os.getpid(), signal.SIGKILL)

    if prctl:
        prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the rank become children of this process, which ends them
    return subprocess.Popen(
        [sys.executable, *program],
        env=environ,
        stdout=None if _untouched(info) else subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=tie_to_parent if prctl else None,  # noqa: PLW1509  there are no threads yet
    )


def _untouched(info: env.LaunchInfo) -> bool:
    """Rank 0 under mpirun writes to the pseudo-terminal mpirun gave it, so that Keras draws its progress bar."""
    return info.rank == 0 and info.launcher != "horovodrun"


def _pumps(child: subprocess.Popen, info: env.LaunchInfo, tail: streams.Tail) -> list[threading.Thread]:
    """Threads that pass the rank's output on; every rank but 0 has its number before each line."""

    def steps() -> list:
        chain = [streams.cleaner()] if info.launcher == "horovodrun" else []
        return chain + ([streams.prefixer(f"[{info.rank}] ".encode())] if info.rank else [])

    def remember(data: bytes, _last: bool) -> bytes:
        tail.feed(data)
        return data

    pumps = [streams.pump(os.dup(child.stderr.fileno()), streams.write_all(2), remember, *steps())]
    if child.stdout:
        pumps.append(streams.pump(os.dup(child.stdout.fileno()), streams.write_all(1), *steps()))
    return pumps


def _pass_on(child: subprocess.Popen, number: int, ordered: list[int]) -> None:
    if number != signal.SIGUSR1:  # asks a rank to save (or for what its program pleases), and orders no end
        ordered.append(number)
    with contextlib.suppress(OSError):
        child.send_signal(number)


def _watch_launcher(child: subprocess.Popen, ordered: list[int]) -> None:
    """End the rank when the launcher that started it is gone: another parent, or nobody reads standard error.

    The parent alone does not tell: an ssh session may have ended before this process asked for its parent first. Nor
    does PR_SET_PDEATHSIG: it also fires when merely the launcher's THREAD that started this process ends.
    """
    launcher = os.getppid()
    hangup = select.poll()
    hangup.register(2, 0)  # POLLERR and POLLHUP are always reported, and nothing else is asked for
    while os.getppid() == launcher and not hangup.poll(1000):
        pass
    _pass_on(child, signal.SIGTERM, ordered)
    time.sleep(_OBEY)
    with contextlib.suppress(OSError):
        child.kill()


def _leave_together(run_dir: str, ordered: list[int]) -> None:
    """After a save, end when all ranks of the run directory have: at the first one's end the launcher kills the rest.

    They are on their way out too, but their Python still takes itself down, flushes logs, or removes old checkpoints.
    """
    until, orders = time.monotonic() + _COMPANY, len(ordered)
    while time.monotonic() < until and len(ordered) == orders:
        if not records.read(run_dir, "started").keys() - records.read(run_dir, "ended").keys():
            return
        time.sleep(0.1)


def _end_descendants() -> None:
    """End what the rank left behind. On Linux this process has inherited it; elsewhere the final sweep finds it."""
    until = time.monotonic() + _AFTERLIFE
    while _has_children() and time.monotonic() < until + _OBEY:
        if time.monotonic() > until:
            import psutil

            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(0.02)


def _has_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
