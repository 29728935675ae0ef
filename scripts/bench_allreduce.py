"""All-reduce of NumPy arrays: the direct MPI engine against raw mpi4py, taking turns in the same processes.

python scripts/bench_allreduce.py --np 2
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

SIZES = {"256 KB": 2**18, "4 MB": 2**22, "40 MB": 40 * 2**20}


def measure(rounds: int) -> dict:
    """Per size the microseconds of both in every round, on this rank."""
    import numpy as np
    from mpi4py import MPI

    import hvdkit as hvd

    taken: dict[str, dict[str, list]] = {}
    for label, size in SIZES.items():
        x, out = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)
        ways = {
            "raw mpi4py": lambda x=x, out=out: MPI.COMM_WORLD.Allreduce(x, out),
            "hvdkit": lambda x=x: hvd.allreduce(x, op=hvd.Sum),
        }
        times: dict[str, list] = {way: [] for way in ways}
        calls = max(5, 2**26 // size)
        for _ in range(rounds + 1):
            for way, call in ways.items():
                MPI.COMM_WORLD.Barrier()
                begin = time.perf_counter()
                for _ in range(calls):
                    call()
                times[way].append((time.perf_counter() - begin) / calls * 1e6)
        taken[label] = {way: rounds_[1:] for way, rounds_ in times.items()}  # the first warms up
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--np", type=int, default=2, help="ranks (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    arguments = parser.parse_args()
    from hvdkit.testing import run_ranks

    environ = {"HVDKIT_ENGINE": "mpi"}
    done = run_ranks(arguments.np, measure, arguments.rounds, launcher="mpirun", environ=environ, timeout=1800)
    print("| size | raw mpi4py, us | hvdkit, us | ratio | middle half |\n|---|---|---|---|---|")
    for label, times in done.values[0].items():
        raw, ours = times["raw mpi4py"], times["hvdkit"]
        ratios = sorted(a / b for a, b in zip(ours, raw, strict=True))
        half = f"{ratios[len(ratios) // 4]:.2f}-{ratios[-1 - len(ratios) // 4]:.2f}"
        cells = (label, round(statistics.median(raw)), round(statistics.median(ours)))
        print("|", " | ".join(map(str, (*cells, round(statistics.median(ratios), 2), half))), "|")


if __name__ == "__main__":
    main()
