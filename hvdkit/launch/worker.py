"""``python -m hvdkit.launch.worker SCRIPT ARGS``: the small parent process of one rank.

A launcher starts it in the rank's place, and it starts ``python SCRIPT ARGS`` as its child: passes output on, passes
signals on, and records how the rank ended, with the last lines of its standard error. The child dies with
it, the child's own children die with the child, and the exit code is the child's (128 + N for signal N). Nothing heavy
is imported here: it costs a rank about a tenth of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from hvdkit.launch import records, startup_noise, streams, subreaper
from hvdkit.launch.identity import LaunchInfo, launch_info
from hvdkit.launch.launcher import LAUNCHERS, launcher
from hvdkit.launch.plan import RUN_DIR, RUN_ID
from hvdkit.launch.program import says_when_it_begins
from hvdkit.utils import env
from hvdkit.utils.training_start import BEGUN, LEFT, PIPE

PRIVATE_FILE = "private.json"
PRIVATE_NAMES = "HVDKIT_PRIVATE_VARIABLES"

# How long the rank's own children (data loaders) may outlive it, and what will not die be waited for; in seconds.
_CHILDREN_GRACE_SECONDS = 2.0
_KILL_SECONDS = 5.0
# How long one rank that saved and left waits for the others; less than the grace `hvdkit run` gives them.
_PEERS_GRACE_SECONDS = 10.0


def main(program: list[str]) -> int:
    """Run one rank; returns its exit code."""
    rank = _Rank(program)
    return subreaper.run_in_child(rank.run, rank.forward_signal)


class _Rank:
    """The rank's process, from before its start to its end."""

    def __init__(self, program: list[str]):
        self._program = program
        self._child: subprocess.Popen | None = None
        self._received: list[int] = []
        self._ordered: list[int] = []  # those that order an end

    def forward_signal(self, number: int) -> None:
        """Pass a signal on to the rank."""
        self._received.append(number)
        if number != signal.SIGUSR1:  # asks a rank to save (or for what its program pleases), and orders no end
            self._ordered.append(number)
        if self._child is not None:
            with contextlib.suppress(OSError):
                self._child.send_signal(number)

    def run(self, pipe: int) -> int:
        """Start the rank, unless a signal came before, and see to it until it has ended and its record is there."""
        info = launch_info()
        run_id, run_dir = env.get(RUN_ID, ""), env.get(RUN_DIR, "")
        record = records.Record(info.rank, socket.gethostname(), env.place(), os.getpid())
        # Before the record is written: when all ranks have reported their start, the private file is removed.
        environ = _environment(run_dir, record)
        if run_dir:
            records.write(run_dir, record)
        tail, pumps, moments = streams.Tail(), [], None
        if not self._received:
            moments = _Moments(self._program)
            child = _start(self._program, {**environ, **moments.environ}, info, moments.descriptors)
            self._child = child
            for number in list(self._received):  # came while it was started
                child.send_signal(number)
            subreaper.kill_descendants_with_parent(pipe)
            pumps = _pumps(child, info, tail)
            code = child.wait()
        else:
            code = -self._received[0]
        ended = time.time()
        _end_descendants()
        for pump in pumps:
            pump.join(10)
        record = replace(
            record,
            code=code if code >= 0 else 128 - code,
            signal=max(-code, 0),
            ordered=self._ordered[0] if self._ordered else 0,
            ended=ended,
            tail=tail.text(),
            **(moments.read() if moments else {"fresh": True}),
        )
        if run_id and not records.write(run_dir, record):
            with contextlib.suppress(OSError):
                streams.write_all(2)(records.to_line(run_id, record))
        for pump in pumps:
            pump.join()
        if record.saved:
            _leave_together(run_dir, self._ordered)
        return record.code


class _Moments:
    """How far a rank has come, as far as its program says so: see ``hvdkit.utils.training_start``."""

    def __init__(self, program: list[str]):
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        self._known = says_when_it_begins(program)
        self.descriptors = (self._writes,)
        self.environ = {PIPE: f"{self._writes}:{os.fstat(self._writes).st_ino}"}

    def read(self) -> dict[str, bool]:
        """Fields of its record; whether something may be lost is unknown of a program that does not report it."""
        try:
            said = os.read(self._reads, len(BEGUN + LEFT))
        except BlockingIOError:
            said = b""
        return {"fresh": self._known and BEGUN not in said, "left": LEFT in said}


def _environment(run_dir: str, record: records.Record) -> dict[str, str]:
    """The rank's environment, with the variables that were kept off the launcher's command line."""
    names = env.get(PRIVATE_NAMES)
    if not names:
        return env.child()
    try:
        values = json.loads(Path(run_dir, PRIVATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values, kept = {}, names.split(",")
        some = ", ".join(kept[:10]) + (f" and {len(kept) - 10} more" if len(kept) > 10 else "")
        text = f"hvdkit: rank {record.rank} on {record.host} does not get {some}: horovodrun would show them to every "
        print(f"{text}user, and the private file that carries them is on another host.", file=sys.stderr)  # noqa: T201
        text = "  What to do: set TMPDIR to a directory that all hosts share; or hvdkit run --launcher mpirun -x NAME."
        print(text, file=sys.stderr)  # noqa: T201
    here = env.child()
    # The user's values override those from the start-up files of the remote shell. A launcher's own variables are kept
    # as the launcher set them: those in the file may be an outer job's.
    reserved = ("HVDKIT_RUN_", *(prefix for name in LAUNCHERS.names() for prefix in launcher(name).own_prefixes))
    environ = {**here, **{name: v for name, v in values.items() if name not in here or not name.startswith(reserved)}}
    environ.pop(PRIVATE_NAMES)
    return environ


def _start(
    program: list[str], environ: dict[str, str], info: LaunchInfo, descriptors: tuple[int, ...]
) -> subprocess.Popen:
    subreaper.adopt_orphans()  # those of the rank become children of this process, which ends them
    return subprocess.Popen(
        [sys.executable, *program],
        env=environ,
        stdout=None if _untouched(info) else subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        preexec_fn=subreaper.tie_to(os.getpid()),  # noqa: PLW1509  there are no threads yet
    )


def _untouched(info: LaunchInfo) -> bool:
    """Rank 0 writes to the pseudo-terminal that a launcher as mpirun gave it, so that Keras draws its progress bar."""
    return info.rank == 0 and launcher(info.launcher).gives_terminal


def _pumps(child: subprocess.Popen, info: LaunchInfo, tail: streams.Tail) -> list[threading.Thread]:
    """Threads that pass the rank's output on; every rank but 0 has its number before each line."""

    def steps() -> list:
        chain = [streams.cleaner()] if launcher(info.launcher).reads_utf8_only else []
        return chain + ([streams.prefixer(f"[{info.rank}] ".encode())] if info.rank else [])

    def remember(data: bytes, _last: bool) -> bytes:
        tail.feed(data)
        return data

    quiet = [] if startup_noise.is_wanted(env.child()) else [startup_noise.remover()]
    pumps = [streams.pump(os.dup(child.stderr.fileno()), streams.write_all(2), remember, *quiet, *steps())]
    if child.stdout:
        pumps.append(streams.pump(os.dup(child.stdout.fileno()), streams.write_all(1), *steps()))
    return pumps


def _leave_together(run_dir: str, ordered: list[int]) -> None:
    """After a save, end when all ranks of the run directory have: at the first one's end the launcher kills the rest.

    They are on their way out too, but their Python still takes itself down, flushes logs, or removes old checkpoints.
    """
    until, orders = time.monotonic() + _PEERS_GRACE_SECONDS, len(ordered)
    while time.monotonic() < until and len(ordered) == orders:
        if not records.read_records(run_dir, "started").keys() - records.read_records(run_dir, "ended").keys():
            return
        time.sleep(0.1)


def _end_descendants() -> None:
    """End what the rank left behind. On Linux this process has inherited it; elsewhere `hvdkit run` does so."""
    until = time.monotonic() + _CHILDREN_GRACE_SECONDS
    while subreaper.has_children() and time.monotonic() < until:
        time.sleep(0.02)
    subreaper.kill_descendants(_KILL_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
