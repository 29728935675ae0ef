"""Real launches for the tests: start `hvdkit run` (or a raw launcher), and look for processes left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from hvdkit.utils.programs import find
from tests.machine import launcher_of, needs

MARK = "HVDKIT_TEST_MARK"
# What every script of these tests begins with.
PRELUDE = "import os, signal, sys, time\nfrom hvdkit.launch.identity import launch_info\nrank = launch_info().rank\n"

# Starts two ranks; when one fails or SIGTERM comes, SIGTERM to all and a second later SIGKILL. Exits with 1 after that.
LAUNCHER = """
import subprocess
told = []
signal.signal(signal.SIGTERM, lambda number, _: obeys and told.append(number))
signal.signal(signal.SIGUSR1, lambda number, _: [rank.send_signal(number) for rank in ranks])
words = [*before, sys.executable, "-m", "hvdkit.launch.worker", *sys.argv[1:]]
world = [{**os.environ, "HOROVOD_RANK": str(i), "HOROVOD_SIZE": "2"} for i in range(2)]
ranks = [subprocess.Popen(words, env=env) for env in world]
while not told and any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
    time.sleep(0.05)
if told or any(rank.returncode for rank in ranks):
    for do in ("terminate", "kill"):
        for rank in ranks:
            getattr(rank, do)()
        until = time.monotonic() + 1
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < until:
            time.sleep(0.05)
    sys.exit(1)
"""
# `hvdkit run`, with the light launcher: what it can do, the restarts, the launcher's file and what the ranks run.
DRIVER = """
from hvdkit.launch import streams
from hvdkit.launch.plan import LaunchPlan
from hvdkit.launch.restarts import supervise_with_restarts
from hvdkit.launch.signals import Signals
words = (sys.executable, *sys.argv[3:])
plan = LaunchPlan("light", "it was made for this", words, 2, passes_on_sigusr1=sys.argv[1] == "passes on SIGUSR1")
sinks = {"stdout": streams.binary(sys.stdout), "stderr": streams.binary(sys.stderr)}
with Signals() as signals:
    sys.exit(supervise_with_restarts(plan, signals, int(sys.argv[2]), **sinks))
"""


@dataclass
class Ended:
    """A finished command."""

    code: int
    out: str
    err: str
    seconds: float


class Cluster:
    """Starts commands that carry a mark of this test in their environment, which all their descendants inherit."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.mark = uuid.uuid4().hex
        self.temporary = directory / "tmp"
        self.temporary.mkdir()

    def script(self, text: str, name: str = "script.py") -> str:
        """Write a script that knows its ``rank``."""
        path = self.directory / name
        path.write_text(PRELUDE + textwrap.dedent(text))
        return str(path)

    def environ(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """An environment with the mark, and a private place for run directories."""
        # Open MPI's sockets stand in its own directory, whose path must be short; only ours go to the test's.
        return {**os.environ, MARK: self.mark, "TMPDIR": str(self.temporary), "PRTE_MCA_prte_tmpdir_base": "/tmp",
                "TF_CPP_MIN_LOG_LEVEL": "2", **(extra or {})}  # fmt: skip

    def start(self, words, env: dict[str, str] | None = None, **options) -> subprocess.Popen:
        """Start a command."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen(list(words), env=self.environ(env), cwd=self.directory, **options)

    def finish(self, process: subprocess.Popen, timeout: float = 120) -> Ended:
        """Wait for a command; past ``timeout`` seconds it counts as hanging."""
        began = time.monotonic()
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill_all()
            out, err = process.communicate()
            pytest.fail(f"still running after {timeout} s\n{out.decode()[-3000:]}\n{err.decode()[-3000:]}")
        seconds = time.monotonic() - began
        return Ended(
            process.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace"), seconds
        )

    def command(self, *words, launcher: str | None = None) -> list[str]:
        """The words of `hvdkit run ...`."""
        chosen = ["--launcher", launcher] if launcher else []
        return [sys.executable, "-m", "hvdkit", "run", *chosen, *map(str, words)]

    def run(self, *words, launcher: str | None = None, env: dict[str, str] | None = None, **options) -> Ended:
        """`hvdkit run ...`, to its end."""
        return self.finish(self.start(self.command(*words, launcher=launcher), env, **options))

    def ready(self, words, env: dict[str, str] | None = None) -> subprocess.Popen:
        """A launch whose two ranks have said that they are ready."""
        process = self.start(words, env, bufsize=0)
        for _ in range(2):
            assert b"ready" in process.stdout.readline()
        return process

    def signalled(self, words, numbers, env: dict[str, str] | None = None, apart: float = 0.7) -> Ended:
        """A launch to its end after some signals."""
        process = self.ready(words, env)
        for number in numbers:
            process.send_signal(number)
            time.sleep(apart)
        return self.finish(process, 60)

    def processes(self) -> list[psutil.Process]:
        """The living processes that carry the mark, or work in the test's directory: of marks horovodrun passes few."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = process.environ().get(MARK) == self.mark or process.cwd() == os.path.realpath(self.directory)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def gone(self, within: float = 0.0) -> bool:
        """Whether no process of this test is left, now or within some seconds."""
        until = time.monotonic() + within
        while self.processes() and time.monotonic() < until:
            time.sleep(0.2)
        assert not self.processes()
        return True

    def tidy(self) -> bool:
        """Whether no run directory is left."""
        return not list(self.temporary.glob("hvdkit-run-*"))

    def kill_all(self) -> None:
        """End what a failing test left."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


@pytest.fixture
def cluster(tmp_path):
    """A place to launch from; whatever is left of it is killed afterwards."""
    made = Cluster(tmp_path)
    yield made
    made.kill_all()


@pytest.fixture
def light(cluster):
    """The words of a supervised launch by the light launcher."""

    def words(script: str, restarts: int = 0, *, can: str = "nothing", before=(), obeys: bool = True) -> list[str]:
        launcher = cluster.script(f"before, obeys = {list(before)}, {obeys}\n{LAUNCHER}", "launcher.py")
        program = [sys.executable, cluster.script(DRIVER, "driver.py"), can, str(restarts)]
        return [*program, launcher, cluster.script(script)]

    return words


@pytest.fixture(params=["horovodrun", "mpirun"])
def launcher(request):
    """Each launcher that can be used here, with whichever engine."""
    return launcher_of(request.param)


@pytest.fixture(scope="session")
def mpirun_words():
    """A raw mpirun that starts ranks on this machine, whoever we are and however few its cores."""
    needs("mpirun")
    return [find("mpirun"), *(["--allow-run-as-root"] if os.geteuid() == 0 else []), "--oversubscribe"]


@pytest.fixture(scope="session")
def horovodrun_words():
    """A raw horovodrun over Gloo."""
    needs("horovodrun")
    return [find("horovodrun"), "--gloo"]
