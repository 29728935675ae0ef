"""Carries out a ``LaunchPlan``: starts the launcher, watches the ranks, and leaves no process behind.

This is the only starter of processes outside the ranks. What it promises: the exit code and the traceback of the rank
that failed first; everything else ended within ``HVDKIT_GRACE_SECONDS`` (15) and the few seconds SIGTERM takes; no
orphans, also when a launcher hangs or dies, on Ctrl-C, on SIGTERM, and when this process itself is killed (then
``watchdog`` ends what is left). On SIGTERM and SIGUSR1 the ranks of this host get the signal before the launcher does,
and ``HVDKIT_PREEMPT_SECONDS`` (120) to save: a launcher that is told to end ends its ranks within seconds.
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
from typing import BinaryIO

from hvdkit.errors import REQUEUE_EXIT_CODE, LaunchError
from hvdkit.launch import records, streams
from hvdkit.launch.hosts import rank_hosts
from hvdkit.launch.plan import RUN_DIR, RUN_ID, LaunchPlan
from hvdkit.launch.reachability import explain_silence, unreachable
from hvdkit.launch.signals import PREEMPTIONS, Signals
from hvdkit.launch.terminate import is_alive, remove_sessions, terminate
from hvdkit.launch.worker import PRIVATE_FILE, PRIVATE_NAMES
from hvdkit.utils import env

_POLL = 0.2
# How long processes may take over SIGTERM before SIGKILL.
_TERM_GRACE_SECONDS = 5.0


def supervise(
    plan: LaunchPlan, signals: Signals, *, stdout: BinaryIO | None = None, stderr: BinaryIO | None = None
) -> int:
    """Carry out a plan and return the exit code: of the rank that failed first, or 128 + the signal that ended it all.

    It is 75 where the ranks saved and left, whether a signal of ``signals`` asked them to or something else did.

    Args:
        plan: what to start.
        signals: the signals collected so far. SIGTERM and SIGUSR1 let the ranks save first, and repeating them changes
            nothing; Ctrl-C and SIGHUP end the run in order, and what comes after them at once.
        stdout, stderr: where the ranks' output goes; this process's own by default.
    """
    sinks = stdout or streams.binary(sys.stdout), stderr or streams.binary(sys.stderr)
    grace = env.number("GRACE_SECONDS", 15.0), env.number("PREEMPT_SECONDS", 120.0)
    run = _Run(plan, signals, sinks, grace)
    try:
        run.start()
        run.watch()
        return run.finish()
    finally:
        run.close()


class _Run:
    """One launch, from its run directory to its exit code."""

    def __init__(
        self, plan: LaunchPlan, signals: Signals, sinks: tuple[BinaryIO, BinaryIO], grace: tuple[float, float]
    ):
        self.plan = plan
        self.signals = signals
        self.handled = 0  # how many of the signals have been acted on
        self.asked: set[int] = set()  # the preemptions that came
        self.told: dict[int, set[int]] = {}  # rank -> those that were passed on to it
        self.save_by = float("inf")
        self.stopping = False  # Ctrl-C or SIGHUP came
        self.ending = False  # the launcher was told to end
        self.stdout, self.stderr = sinks
        self.grace, self.preempt = grace
        self.id = secrets.token_hex(8)
        self.directory = tempfile.mkdtemp(prefix="hvdkit-run-")  # private: mode 0700
        self.place = env.place()
        self.started: dict[int, records.Record] = {}
        self.ended: dict[int, records.Record] = {}
        self.sent: dict[int, records.Record] = {}  # from hosts that do not share the run directory
        self.own_words = streams.Tail()  # the launcher's own output, if it marks that of the ranks
        self.deadline = float("inf")
        self.launcher: subprocess.Popen | None = None
        self.watchdog: subprocess.Popen | None = None
        self.pumps: list[threading.Thread] = []

    def start(self) -> None:
        """Start the watchdog and the launcher."""
        watchdog = [sys.executable, "-m", "hvdkit.launch.watchdog", self.id, self.directory]
        self.watchdog = subprocess.Popen(
            watchdog,
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
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.launcher.wait(_POLL)
                return
            self._collect()
            self._handle_signals()
            if any(record.failed for record in self.ended.values()) or len(self.ended) == self.plan.np:
                self._start_grace_period()
            if time.monotonic() > self.deadline:
                return

    def _handle_signals(self) -> None:
        """Act on the signals that came: let the ranks save, then end the run in order, or at once."""
        for number in self.signals.received[self.handled :]:
            self.handled += 1
            if number in PREEMPTIONS and not self.stopping:
                self.asked.add(number)  # schedulers repeat it, so it is never a reason to hurry
            elif self.stopping:
                self.deadline = 0.0
            else:
                self.stopping = True
                self._end_in_order()
        if self.asked and not self.ending:
            self._ask_to_save()
            if time.monotonic() > self.save_by:
                self._end_in_order()

    def _ask_to_save(self) -> None:
        """Pass the preemption on to the workers of this host; at every poll, for those that started meanwhile."""
        here = [me for rank, me in self.started.items() if me.place == self.place and rank not in self.ended]
        for me in here:
            for number in self.asked - self.told.setdefault(me.rank, set()):
                self.told[me.rank].add(number)
                with contextlib.suppress(OSError):
                    os.kill(me.pid, number)
        if self.save_by < float("inf"):
            return
        self.save_by = time.monotonic() + self.preempt
        if not here and self.plan.passes_on_sigusr1 and signal.SIGTERM not in self.asked:
            self.launcher.send_signal(signal.SIGUSR1)
        elif not here:
            self._end_in_order()

    def _end_in_order(self) -> None:
        self.ending = True
        # SIGTERM for Ctrl-C too: launchers pass it on, and horovodrun answers SIGINT with a traceback.
        self.launcher.send_signal(signal.SIGTERM)
        self._start_grace_period()

    def _start_grace_period(self) -> None:
        self.deadline = min(self.deadline, time.monotonic() + self.grace)

    def _collect(self) -> None:
        """Read the records, and make one for a rank whose worker vanished without one: it was killed."""
        self.started = records.read_records(self.directory, "started")
        vanished = [rank for rank, me in self.started.items() if me.place == self.place and not is_alive(me.pid)]
        # Read after the look at the processes: a worker that ended in order has written its record before.
        known = {**self.sent, **records.read_records(self.directory, "ended")}
        self.ended = {**self.ended, **known}
        for rank in vanished:
            if rank not in self.ended:
                me = self.started[rank]
                fields = {**vars(me), "code": 128 + signal.SIGKILL, "signal": int(signal.SIGKILL), "ended": time.time()}
                self.ended[rank] = records.Record(**fields)
        if len(self.started) >= self.plan.np:
            Path(self.directory, PRIVATE_FILE).unlink(missing_ok=True)

    def finish(self) -> int:
        """End what is left, say what happened, and return the exit code."""
        hung = self.launcher.poll() is None
        # Without a deadline the launcher has ended by itself and its ranks are on their way out.
        terminate(self.id, 0.0 if self.deadline == 0.0 else _TERM_GRACE_SECONDS)
        if hung and self.launcher.poll() is None:
            self.launcher.kill()
        code = self.launcher.wait()
        # Killed by somebody else it was not there to be ended above.
        remove_sessions([(Path(self.plan.argv[0]).name, self.launcher.pid)])
        for pump in self.pumps:
            pump.join(5)
        self._collect()
        return self._exit_code(code if code >= 0 else 128 - code, hung)

    def _exit_code(self, code: int, hung: bool) -> int:
        root_cause = records.first_failure(self.ended.values())
        came = bool(self.signals.received)
        if root_cause is not None and root_cause.saved and (self.signals.preempted or not came):
            why = f"ended by {self.signals.name}: " if came else ""
            self._say(f"hvdkit: {why}the ranks saved and should be started again (exit code {REQUEUE_EXIT_CODE}).")
            return REQUEUE_EXIT_CODE
        if self._nothing_is_lost():
            self._say(self.signals.before_training)
            return self.signals.code_before_training
        if came:
            self._say(f"hvdkit: ended by {self.signals.name}; all {self.plan.np} ranks are gone.")
            return 128 + self.signals.received[0]
        if root_cause is not None and not (root_cause.told_to_end and code > 128):
            self._say(records.explain_failure(root_cause, self.ended, self.plan.np))
            if root_cause.is_consequence:
                self._say(self._explain_silence())
            return root_cause.exit_code
        all_well = len(self.ended) == self.plan.np and root_cause is None
        if code == 0 or (hung and all_well):
            return 0
        self._say(self.own_words.text())
        what = f"was killed by {signal.Signals(code - 128).name}" if self.launcher.returncode < 0 else "failed"
        self._say(
            f"hvdkit: the launcher {self.plan.launcher} {what} (exit code {code}), and no rank says that it failed; "
            "all ranks are gone."
        )
        self._say(self._explain_silence())
        return code

    def _explain_silence(self) -> str:
        """Of the ranks that did not even notice that others were missing: which they are, and whose host is gone."""
        listed = dict(enumerate(rank_hosts(self.plan.hosts, self.plan.np)))
        hosts = {**listed, **{me.rank: me.host for me in (*self.started.values(), *self.ended.values())}}
        gone = unreachable(dict.fromkeys(listed.values()))
        silent = records.silent_ranks(self.ended, hosts)
        return explain_silence(silent if 0 < len(silent) < self.plan.np else (), hosts, gone)

    def _nothing_is_lost(self) -> bool:
        """Whether the ranks were told to save and leave before there was anything to save.

        One of them that had not begun is enough, but for those that failed by themselves: no step is made without all.
        """
        if not self.signals.preempted:
            return False
        failed = [record for record in self.ended.values() if record.failed]
        nowhere = not (self.started or self.ended or self.plan.hosts)  # of other hosts it is unknown
        return all(record.lost_nothing for record in failed) and bool(failed or nowhere)

    def _say(self, text: str) -> None:
        streams.write_message(self.stderr, text)

    def close(self) -> None:
        """Let the watchdog go and remove the run directory; after an exception, end everything first."""
        if self.launcher is not None and self.launcher.poll() is None:
            terminate(self.id, 0.0)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.watchdog is not None:
            with contextlib.suppress(OSError):
                self.watchdog.communicate(b".", timeout=5)
        for stream in (self.launcher.stdout, self.launcher.stderr) if self.launcher else ():
            stream.close()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
