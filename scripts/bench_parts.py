"""Where do the milliseconds of a step with the MPI engine go?

    python scripts/bench_parts.py --workloads W1,W3

The same step is made with more and more of the communication in it, variants interleaved in the same processes:

    no communication    plain Keras on each rank
    packing             the pipeline's graph: buckets are packed and unpacked, but nothing is called
    calling             a Python function is called for each bucket, and gives it back as it is
    hvdkit              the reduction; of its time in the function, what it spends waiting for the other ranks
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def measure(workload: str, rounds: int, steps: int) -> dict:
    """Milliseconds per step of each variant in every round, of the slowest rank; inside and waiting on this rank."""
    import tensorflow as tf

    import hvdkit as hvd
    from hvdkit.bench import step
    from hvdkit.comm.mpi import graph_ops
    from hvdkit.comm.mpi.timeout import Timeout

    tf.config.threading.set_intra_op_parallelism_threads(1)
    spent = {"inside": 0.0, "waiting": 0.0}
    call, wait = graph_ops.call_numpy, Timeout.wait

    def timed(what, function):
        def inner(*args):
            begin = time.perf_counter()
            try:
                return function(*args)
            finally:
                spent[what] += time.perf_counter() - begin

        return inner

    ways = {
        "no communication": None,
        "packing": lambda function, tensors, dtypes: [tf.identity(t) for t in tensors],
        "calling": lambda function, tensors, dtypes: call(lambda *arrays: list(arrays), tensors, dtypes),
        "hvdkit": lambda function, tensors, dtypes: call(timed("inside", function), tensors, dtypes),
    }
    Timeout.wait = timed("waiting", wait)
    fits = {}
    for name, way in ways.items():
        made = step.compiled("hvdkit" if way else step.NO_COMMUNICATION, workload)
        graph_ops.call_numpy = way or call
        fits[name] = functools.partial(step.timed_fit, *made)
        with hvd.local_training():  # no consistency check: it would see that two variants reduce nothing
            fits[name](3)
        graph_ops.call_numpy = call
    taken: dict[str, list] = {name: [] for name in [*ways, *spent]}
    for _ in range(rounds):
        for name, fit in fits.items():
            hvd.barrier()
            spent.update(inside=0.0, waiting=0.0)
            with hvd.local_training():
                wall, _ = fit(steps)
            if name == "hvdkit":
                for what, seconds in spent.items():
                    taken[what].append(seconds / (steps + 2) * 1000)
            taken[name].append(max(hvd.allgather_object(wall)) / steps * 1000)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="W1,W3", help="default: %(default)s")
    parser.add_argument("--np", type=int, default=2, help="ranks (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=60, help="of one measurement (default: %(default)s)")
    arguments = parser.parse_args()
    from hvdkit.testing import run_ranks

    print("| workload | what | ms of a step | more than the line before, median of rounds |\n|---|---|---|---|")
    for workload in arguments.workloads.split(","):
        environ = {"HVDKIT_ENGINE": "mpi", "OMP_NUM_THREADS": "1"}
        options = {"launcher": "mpirun", "environ": environ, "timeout": 3600}
        taken = run_ranks(arguments.np, measure, workload, arguments.rounds, arguments.steps, **options).values[0]
        before = None
        for name in ("no communication", "packing", "calling", "hvdkit"):
            more = (
                ""
                if before is None
                else f"{statistics.median(a - b for a, b in zip(taken[name], before, strict=True)):+.2f}"
            )
            print(f"| {workload} | {name} | {statistics.median(taken[name]):.2f} | {more} |")
            before = taken[name]
        for what in ("inside", "waiting"):
            print(f"| {workload} | hvdkit, of which {what} | {statistics.median(taken[what]):.2f} | |")


if __name__ == "__main__":
    main()
