"""The runner of a benchmark: measures the variants interleaved; one variant's processes run, all others are stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hvdkit.bench import worker
from hvdkit.errors import HvdkitError
from hvdkit.utils import env

_START_SECONDS, _MEASURE_SECONDS, _END_SECONDS = 300.0, 600.0, 5.0
#: The fraction of all cores' time that other programs may use during a measurement.
FOREIGN_LIMIT = 0.05
_ATTEMPTS = 4


@dataclass(frozen=True)
class Variant:
    """One of the things that are compared.

    ``command`` starts its ranks; each calls ``worker.serve`` with the folder in ``HVDKIT_BENCH_FOLDER``. ``batch`` is
    the number of samples in a step of one rank.
    """

    name: str
    ranks: int
    batch: int
    command: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What was measured: samples per second of all ranks together, CPU seconds per 1,000 samples, the largest peak of
    a rank's memory so far, and the fraction of all cores' time that other programs used."""

    rate: float
    cpu: float
    peak_bytes: int
    foreign: float = 0.0

    @classmethod
    def from_ranks(cls, done: list[dict], samples: int, foreign: float = 0.0) -> Measurement:
        """From what each rank reports (``worker.timed``), and the samples of all ranks together."""
        return cls(
            rate=samples / max(rank["wall"] for rank in done),
            cpu=1000 * sum(rank["cpu"] for rank in done) / samples,
            peak_bytes=max(rank["peak_bytes"] for rank in done),
            foreign=foreign,
        )


class Job:
    """A variant's processes."""

    def __init__(self, variant: Variant, folder: Path):
        self.variant, self._folder, self._number = variant, folder, 0
        folder.mkdir()
        self._log = (folder / "output.log").open("wb")
        environ = env.child({**variant.environ, "HVDKIT_BENCH_FOLDER": str(folder)})
        self._process = subprocess.Popen(
            variant.command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait("ready", _START_SECONDS)
        except BaseException:
            self.end()
            raise

    def measure(self, steps: int) -> Measurement:
        """Let its ranks make so many steps, and measure them."""
        self._number += 1
        with self._running() as processes:
            before = _CpuLoad(processes)
            worker.write(self._folder / f"request-{self._number}", {"steps": steps})
            done = self._wait(f"result-{self._number}", _MEASURE_SECONDS)
            foreign = before.foreign_since()
        return Measurement.from_ranks(done, steps * self.variant.batch * self.variant.ranks, foreign)

    def freeze(self) -> None:
        """Stop its processes, so that they use no processor."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it."""
        (self._folder / "end").touch()
        processes = self._processes()
        self._thaw(processes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._log.close()

    @contextlib.contextmanager
    def _running(self) -> Iterator[list[psutil.Process]]:
        processes = self._processes()
        self._thaw(processes)
        try:
            yield processes
        finally:
            self.freeze()

    def _thaw(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def _processes(self) -> list[psutil.Process]:
        try:
            launcher = psutil.Process(self._process.pid)
            return [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _wait(self, what: str, seconds: float) -> list[dict]:
        paths = [self._folder / f"{what}-{rank}" for rank in range(self.variant.ranks)]
        deadline = time.monotonic() + seconds
        while not all(path.exists() for path in paths):
            if self._process.poll() is not None or time.monotonic() > deadline:
                output = (self._folder / "output.log").read_text(errors="replace")[-3000:]
                ended = (
                    f"ended with {self._process.returncode}" if self._process.poll() is not None else "took too long"
                )
                raise HvdkitError(f"The benchmark's variant {self.variant.name!r} {ended}. Its output:\n{output}")
            time.sleep(0.005)
        return [json.loads(path.read_text()) for path in paths]


class _CpuLoad:
    """How much of the processors is used, and by whom."""

    def __init__(self, processes: list[psutil.Process]):
        self._own_processes = [*processes, psutil.Process()]
        self._begin, self._busy, self._own = time.monotonic(), _busy_seconds(), self._own_seconds()

    def foreign_since(self) -> float:
        used = (_busy_seconds() - self._busy) - (self._own_seconds() - self._own)
        return max(0.0, used / ((time.monotonic() - self._begin) * (psutil.cpu_count() or 1)))

    def _own_seconds(self) -> float:
        total = 0.0
        for process in self._own_processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


def _busy_seconds() -> float:
    times = psutil.cpu_times()._asdict()
    # Time of guests is in that of users already; stolen time is another machine's on the same cores.
    return sum(seconds for kind, seconds in times.items() if kind not in ("idle", "iowait", "guest", "guest_nice"))


def interleave(
    variants: list[Variant], rounds: int, seconds: float, report_progress=lambda text: None
) -> dict[str, list[Measurement]]:
    """Measure each variant for so many seconds, round after round.

    Args:
        variants: with different names.
        rounds: how often each is measured.
        seconds: about how long a measurement takes.
        report_progress: is called with a line about what is measured next.

    Returns:
        Per variant its measurements. One in which other programs used more than ``FOREIGN_LIMIT`` of the cores was
        repeated; after ``_ATTEMPTS`` such measurements the least disturbed one counts.

    Raises:
        HvdkitError: a variant's processes ended; with their output.
    """
    measurements: dict[str, list[Measurement]] = {variant.name: [] for variant in variants}
    with tempfile.TemporaryDirectory(prefix="hvdkit-bench-") as folder, contextlib.ExitStack() as stack:
        jobs, steps = [], {}
        for number, variant in enumerate(variants):
            report_progress(f"starting {variant.name}")
            job = Job(variant, Path(folder, str(number)))
            stack.callback(job.end)
            job.measure(3)
            samples = 30 * variant.batch * variant.ranks
            took = samples / statistics.median(job.measure(30).rate for _ in range(2))
            steps[variant.name] = max(5, round(seconds / took * 30))
            jobs.append(job)
        for number in range(rounds):
            report_progress(f"round {number + 1} of {rounds}")
            for job in jobs:
                measurements[job.variant.name].append(_undisturbed(job, steps[job.variant.name]))
    return measurements


def _undisturbed(job: Job, steps: int) -> Measurement:
    attempts: list[Measurement] = []
    while len(attempts) < _ATTEMPTS:
        attempts.append(job.measure(steps))
        if attempts[-1].foreign <= FOREIGN_LIMIT:
            break
    return min(attempts, key=lambda measurement: measurement.foreign)
