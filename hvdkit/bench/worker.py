"""The worker of a benchmark: waits for a request, makes so many steps, and reports how long they took.

Only the standard library, and nothing else of hvdkit: the peers' programs load this file in environments of their own.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

_POLL_SECONDS = 0.002


def serve(folder: str, rank: int, measure: Callable[[int], tuple[float, float]]) -> None:
    """Answer the runner's requests until it announces the end.

    Args:
        folder: where requests are made and answered, as small JSON files.
        rank: this rank.
        measure: makes so many steps, together with the other ranks; wall seconds and CPU seconds of this process.
    """
    directory, number = Path(folder), 0
    write(directory / f"ready-{rank}", {})
    while True:
        number += 1
        request = directory / f"request-{number}"
        while not request.exists():
            if (directory / "end").exists():
                return
            time.sleep(_POLL_SECONDS)
        write(directory / f"result-{number}-{rank}", timed(measure, json.loads(request.read_text())["steps"]))


def timed(measure: Callable[[int], tuple[float, float]], steps: int) -> dict[str, float]:
    """What a rank reports of its steps: seconds of wall clock and CPU, and the most memory it ever had."""
    wall, cpu = measure(steps)
    return {"wall": wall, "cpu": cpu, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def loop(step: Callable[[], object]) -> Callable[[int], tuple[float, float]]:
    """What ``serve`` measures of a training loop of one's own; two steps go before."""

    def measure(steps: int) -> tuple[float, float]:
        step(), step()
        begin = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        return time.perf_counter() - begin[0], time.process_time() - begin[1]

    return measure


def write(path: Path, content: dict) -> None:
    """A small JSON file that is there as a whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content))
    part.replace(path)
