"""The fork servers of one run of the tests: started at their first use, ended with it, also where it is killed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.forkserver.client import SERVERS

HERE = Path(__file__).parent
SWITCH = "HVDKIT_TESTS_FORKSERVER"


class ForkServers:
    """Some of them: with one, all ranks and all runs would have the same hashes of strings, and an order of names that
    differs between them, which is a bug that sets make, would not be seen.

    Used as a context.
    """

    def __init__(self, environ: Mapping[str, str] | None = None):
        self._environ = environ or {}
        self._folder = tempfile.TemporaryDirectory(prefix="hvdkit-forks-")
        shutil.copy(HERE / "client.py", f"{self._folder.name}/sitecustomize.py")
        self.processes: list[subprocess.Popen] = []

    def __enter__(self) -> ForkServers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait(30)
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What was not run by a fork, and why."""
        return "".join(path.read_text() for path in sorted(Path(self._folder.name).glob("*.log")))

    def variables(self, servers: int = SERVERS) -> dict[str, str]:
        """What lets a Python process be a fork: variables for its environment. Empty where forks are switched off."""
        if os.environ.get(SWITCH) == "0" or not hasattr(os, "pidfd_open"):
            return {}
        while len(self.processes) < servers:
            self._start()
        path = [self._folder.name, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path)}

    def _start(self) -> None:
        number = len(self.processes)
        listening = socket.socket(socket.AF_UNIX)  # here, so that clients may already come while the server imports
        listening.bind(f"{self._folder.name}/{number}")
        listening.listen(64)
        with listening, Path(self._folder.name, f"{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "server.py"), str(listening.fileno())],
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1", **self._environ},
                pass_fds=[listening.fileno()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
