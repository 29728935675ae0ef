"""All-reduce of NumPy arrays among the ranks that were launched; beside raw mpi4py where an MPI launched them."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np

SIZES = {"4 KB": 2**12, "256 KB": 2**18, "4 MB": 2**22, "40 MB": 40 * 2**20}
HVDKIT, RAW_MPI4PY = "hvdkit", "raw mpi4py"


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Per size and way the microseconds of one all-reduce in every round, on this rank; the ways are interleaved."""
    import hvdkit as hvd

    taken: dict[str, dict[str, list[float]]] = {}
    for label, size in SIZES.items():
        calls = max(5, min(300, 2**26 // size))
        ways = _ways(np.ones(size // 4, np.float32))
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds + 1):
            for way, call in ways.items():
                hvd.barrier()
                begin = time.perf_counter()
                for _ in range(calls):
                    call()
                times[way].append((time.perf_counter() - begin) / calls * 1e6)
        taken[label] = {way: series[1:] for way, series in times.items()}  # the first warms up
    return taken


def _ways(x: np.ndarray) -> dict[str, Callable]:
    import hvdkit as hvd

    ways: dict[str, Callable] = {HVDKIT: lambda: hvd.allreduce(x, op=hvd.Sum)}
    if hvd.mpi_enabled() and importlib.util.find_spec("mpi4py"):
        from mpi4py import MPI

        out = np.empty_like(x)
        ways[RAW_MPI4PY] = lambda: MPI.COMM_WORLD.Allreduce(x, out)
    return ways


def rows(taken: dict[str, dict[str, list[float]]]) -> list[dict[str, str]]:
    """A row per size, of what ``measure`` returned."""
    made = []
    for label, times in taken.items():
        own_median = statistics.median(times[HVDKIT])
        row = {"size": label, "hvdkit, us": f"{own_median:,.0f}", "GB/s": f"{SIZES[label] / own_median / 1000:.2f}"}
        if RAW_MPI4PY in times:
            ratios = sorted(a / b for a, b in zip(times[HVDKIT], times[RAW_MPI4PY], strict=True))
            row |= {
                "raw mpi4py, us": f"{statistics.median(times[RAW_MPI4PY]):,.0f}",
                "ratio": f"{statistics.median(ratios):.2f}",
                "interquartile range": f"{ratios[len(ratios) // 4]:.2f}-{ratios[-1 - len(ratios) // 4]:.2f}",
            }
        made.append(row)
    return made
