"""Carries out a ``LaunchPlan``: starts the launcher, watches the ranks, and leaves no process behind.

This is the only starter of processes outside the ranks. What it promises: the exit code and the traceback of the rank
that failed first; everything else ended within ``HVDKIT_GRACE_SECONDS`` (15) and the few seconds SIGTERM takes; no
orphans, also when a launcher hangs or dies, on Ctrl-C, on SIGTERM, and when this process itself is killed (then
``caretaker`` does the sweeping).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import psutil

from hvdkit import env
from hvdkit.errors import LaunchError
from hvdkit.launch import records, streams
from hvdkit.launch.plan import RUN_DIR, RUN_ID, LaunchPlan
from hvdkit.launch.sweep import sweep
from hvdkit.launch.worker import PRIVATE_FILE, PRIVATE_NAMES

_POLL = 0.2
# How long processes may take over SIGTERM before SIGKILL.
_PATIENCE = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def output_of(argv: list[str], timeout: float = 20.0) -> str:
    """What a command prints, or nothing where it cannot be run; for questions like ``mpirun --version``."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


class Signals:
    """Collects SIGINT, SIGTERM and SIGHUP while a run is on, and puts the old handlers back at its end."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._old: dict[int, object] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python takes handlers nowhere else
            self._old = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)


def supervise(
    plan: LaunchPlan, signals: Signals, *, stdout: BinaryIO | None = None, stderr: BinaryIO | None = None
) -> int:
    """Carry out a plan and return the exit code: of the rank that failed first, or 128 + the signal that ended it all.

    Args:
        plan: what to start.
        signals: the signals collected so far; the first one ends the run in order, the second at once.
        stdout, stderr: where the ranks' output goes; this process's own by default.
    """
    grace = env.number("GRACE_SECONDS", 15.0)
    run = _Run(plan, signals, grace, stdout or streams.binary(sys.stdout), stderr or streams.binary(sys.stderr))
    try:
        run.start()
        run.watch()
        return run.finish()
    finally:
        run.close()


class _Run:
    """One launch, from its run directory to its exit code."""

    def __init__(self, plan: LaunchPlan, signals: Signals, grace: float, stdout: BinaryIO, stderr: BinaryIO):
        self.plan = plan
        self.signals = signals
        self.grace = grace
        self.stdout = stdout
        self.stderr = stderr
        self.id = secrets.token_hex(8)
        self.directory = tempfile.mkdtemp(prefix="hvdkit-run-")  # private: mode 0700
        self.place = records.place()
        self.started: dict[int, records.Record] = {}
        self.ended: dict[int, records.Record] = {}
        self.sent: dict[int, records.Record] = {}  # from hosts that do not share the run directory
        self.own_words = streams.Tail()  # what the launcher itself said, where it marks what the ranks say
        self.deadline = float("inf")
        self.launcher: subprocess.Popen | None = None
        self.caretaker: subprocess.Popen | None = None
        self.pumps: list[threading.Thread] = []

    def start(self) -> None:
        """Start the caretaker and the launcher."""
        caretaker = [sys.executable, "-m", "hvdkit.launch.caretaker", self.id, self.directory]
        self.caretaker = subprocess.Popen(
            caretaker,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.launcher = subprocess.Popen(
                self.plan.argv,
                env=self._environment(),
                stdin=None if _is_open(0) else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C on the terminal reaches this process alone, which passes it on once
            )
        except OSError as error:
            raise LaunchError(f"{self.plan.argv[0]} cannot be started: {error.strerror}.") from None
        for source, sink in ((self.launcher.stdout, self.stdout), (self.launcher.stderr, self.stderr)):
            tags = [streams.tags_off(self.own_words)] if self.plan.tagged else []
            self.pumps.append(
                streams.pump(os.dup(source.fileno()), streams.flushed(sink), streams.by_line(self._take_records, *tags))
            )

    def _environment(self) -> dict[str, str]:
        environ = env.child({**self.plan.env, RUN_ID: self.id, RUN_DIR: self.directory})
        private = {name: environ.pop(name) for name in self.plan.private if name in environ}
        if private:
            environ[PRIVATE_NAMES] = ",".join(private)
            path = Path(self.directory, PRIVATE_FILE)
            path.touch(mode=0o600)
            path.write_text(json.dumps(private), encoding="utf-8")
        return environ

    def _take_records(self, line: bytes) -> bytes:
        record = records.from_line(self.id, line)
        if record is None:
            return line
        self.sent[record.rank] = record
        return line.partition(b"\x1e")[0]  # a line of the rank's that had no end

    def watch(self) -> None:
        """Wait for the launcher's end, a failure's deadline or a signal."""
        told = 0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.launcher.wait(_POLL)
                return
            self._collect()
            if len(self.signals.received) > told:
                told = len(self.signals.received)
                if told > 1:
                    self.deadline = 0.0
                else:
                    # SIGTERM for Ctrl-C too: both launchers pass it on, and horovodrun answers SIGINT with a traceback.
                    self.launcher.send_signal(signal.SIGTERM)
                    self._hurry()
            if any(record.failed for record in self.ended.values()) or len(self.ended) == self.plan.np:
                self._hurry()
            if time.monotonic() > self.deadline:
                return

    def _hurry(self) -> None:
        self.deadline = min(self.deadline, time.monotonic() + self.grace)

    def _collect(self) -> None:
        """Read the records, and make one for a rank whose worker vanished without one: it was killed."""
        self.started = records.read(self.directory, "started")
        vanished = [rank for rank, me in self.started.items() if me.place == self.place and not _alive(me.pid)]
        # Read after the look at the processes: a worker that ended in order has written its record before.
        known = {**self.sent, **records.read(self.directory, "ended")}
        self.ended = {**self.ended, **known}
        for rank in vanished:
            if rank not in self.ended:
                me = self.started[rank]
                fields = {**vars(me), "code": 128 + signal.SIGKILL, "signal": int(signal.SIGKILL), "ended": time.time()}
                self.ended[rank] = records.Record(**fields)
        if len(self.started) >= self.plan.np:
            Path(self.directory, PRIVATE_FILE).unlink(missing_ok=True)

    def finish(self) -> int:
        """Sweep, say what happened, and return the exit code."""
        hung = self.launcher.poll() is None
        # Without a deadline the launcher has ended by itself and its ranks are on their way out.
        sweep(self.id, 0.0 if self.deadline == 0.0 else _PATIENCE)
        if hung and self.launcher.poll() is None:
            self.launcher.kill()
        code = self.launcher.wait()
        for pump in self.pumps:
            pump.join(5)
        self._collect()
        return self._verdict(code if code >= 0 else 128 - code, hung)

    def _verdict(self, code: int, hung: bool) -> int:
        if self.signals.received:
            name = signal.Signals(self.signals.received[0]).name
            self._say(f"hvdkit: ended by {'Ctrl-C' if name == 'SIGINT' else name}; all {self.plan.np} ranks are gone.")
            return 128 + self.signals.received[0]
        blamed = records.first_failure(self.ended.values())
        if blamed is not None and not (blamed.told_to_end and code > 128):
            self._say(records.explain(blamed, self.ended, self.plan.np))
            return blamed.exit_code
        all_well = len(self.ended) == self.plan.np and blamed is None
        if code == 0 or (hung and all_well):
            return 0
        self._say(self.own_words.text())
        what = f"was killed by {signal.Signals(code - 128).name}" if self.launcher.returncode < 0 else "failed"
        self._say(
            f"hvdkit: the launcher {self.plan.launcher} {what} (exit code {code}), and no rank says that it failed; "
            "all ranks are gone."
        )
        return code

    def _say(self, text: str) -> None:
        if text:
            with contextlib.suppress(OSError, ValueError):
                streams.flushed(self.stderr)(f"{text}\n".encode())

    def close(self) -> None:
        """Let the caretaker go and remove the run directory; after an exception, end everything first."""
        if self.launcher is not None and self.launcher.poll() is None:
            sweep(self.id, 0.0)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.caretaker is not None:
            with contextlib.suppress(OSError):
                self.caretaker.communicate(b".", timeout=5)
        for stream in (self.launcher.stdout, self.launcher.stderr) if self.launcher else ():
            stream.close()


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
