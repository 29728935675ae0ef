"""A launcher and an engine of somebody else's, whole in this file: ranks that meet in files of the run directory."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hvdkit.comm.engine import ReduceOp
from hvdkit.comm.single import SingleEngine
from hvdkit.engines import EngineInfo
from hvdkit.launch.identity import launch_info
from hvdkit.launch.launcher import Launcher, RankVariables, Tool
from hvdkit.launch.plan import LaunchPlan, Request, SystemInfo, worker


class ToyLauncher(Launcher):
    """This file, as a program."""

    rendezvous = "files"
    variables = (RankVariables("TOY_RANK", "TOY_SIZE"),)

    def tool(self) -> Tool:
        return Tool(__file__)

    def plan(self, request: Request, system: SystemInfo, env: dict[str, str], why: str) -> LaunchPlan:
        argv = (system.python, system.tools["toy"].path, str(request.np), *worker(request, system))
        return LaunchPlan("toy", why, argv, request.np, env)


class ToyInfo(EngineInfo):
    """What hvdkit knows of the engine before it is loaded."""

    name = "toy"
    target = "toy:ToyEngine"
    library = "the toy"
    install = "pip install toy"
    ways: ClassVar = {"files": "toy"}
    graph_operation = "Toy"
    peer_lost = ("The other toy is broken",)

    def installed(self) -> str:
        return "1.0"


class ToyEngine(SingleEngine):
    """An engine that can sum."""

    name = "toy"

    def __init__(self, deadline: float, comm: Any, process_sets: Any):
        super().__init__()
        info = launch_info()
        self.rank, self.size, self._calls = info.rank, info.size, 0

    @staticmethod
    def why_not() -> None:
        """There is nothing against it."""

    def allreduce(self, tensors: list, op: ReduceOp, names: Any, prescale: float = 1.0, postscale: float = 1.0) -> list:
        self._calls += 1
        paths = [Path(os.environ["HVDKIT_RUN_DIR"], f"toy.{self._calls}.{rank}") for rank in range(self.size)]
        written = io.BytesIO()
        np.savez(written, *map(np.asarray, tensors))
        part = paths[self.rank].with_suffix(".part")
        part.write_bytes(written.getvalue())
        part.rename(paths[self.rank])
        while not all(path.exists() for path in paths):
            time.sleep(0.01)
        everyones = [np.load(path) for path in paths]
        return [sum(values[name] for values in everyones) for name in everyones[0].files]


def main(ranks: int, words: list[str]) -> int:
    """Start the ranks, and wait for them."""
    world = [{**os.environ, "TOY_RANK": str(rank), "TOY_SIZE": str(ranks)} for rank in range(ranks)]
    return max([rank.wait() for rank in [subprocess.Popen(words, env=env) for env in world]])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
