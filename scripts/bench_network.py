"""All-reduces and train steps between hosts: Linux namespaces on this machine (root, iproute2, openssh-server).

    python scripts/bench_network.py allreduce --hosts 2,3 --rates 1gbit,none
    python scripts/bench_network.py step --hosts 2 --rates 1gbit

Each round starts every engine once by `hvdkit run` and times it; the tables hold medians over all rounds. "raw" is
mpi4py's blocking Allreduce in the ranks of the MPI engine. "bound" is what a link of the rate needs at least: every
host sends 2 (n - 1) / n of the bytes (and some 5 % more for the headers of TCP, IP and Ethernet).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ENGINES = {"mpi": "mpirun", "horovod": "horovodrun"}
BITS = {"gbit": 1e9, "mbit": 1e6}
_REPORT = "measured "


def allreduce_rank(sizes: list[int], repeats: int) -> dict[str, float]:
    """Seconds of one all-reduce of each size, on every rank."""
    import hvdkit as hvd

    hvd.init()
    calls = {}
    if os.environ["HVDKIT_ENGINE"] == "mpi":
        from mpi4py import MPI

        calls["raw"] = lambda x: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x)
        calls["mpi"] = lambda x: hvd.allreduce(x, op=hvd.Sum)
        calls["mpi fp16"] = lambda x: hvd.allreduce(x.view(np.float16)[: len(x)], op=hvd.Sum)
    else:
        import tensorflow as tf

        # A tensor is what Horovod takes; to make one of an array is not its work.
        tensor = functools.cache(tf.zeros)
        calls["horovod"] = lambda x: hvd.allreduce(tensor(len(x)), op=hvd.Sum)
    out = {}
    for size in sizes:
        calls_each = max(1, min(200, 200_000 // size))
        seconds = defaultdict(list)
        for _ in range(repeats + 1):
            for name, call in calls.items():
                x = np.zeros(size // 4, np.float32)
                hvd.barrier()
                begin = time.perf_counter()
                for _ in range(calls_each):
                    call(x)
                seconds[name].append((time.perf_counter() - begin) / calls_each)
        out |= {f"{size} {name}": statistics.median(each[1:]) for name, each in seconds.items()}
    return out


def step_rank(workload: str, repeats: int) -> dict[str, float]:
    """Seconds of one train step, on every rank."""
    import keras
    import tensorflow as tf

    import hvdkit as hvd
    from hvdkit.bench import workloads

    tf.config.threading.set_intra_op_parallelism_threads(1)
    hvd.init()
    keras.utils.set_random_seed(1)
    model = workloads.model(workload, keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compression = os.environ["BENCH_COMPRESSION"]
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01), compression=compression), loss)
    data = tf.data.Dataset.from_tensors(workloads.data(workload)).repeat()
    model.fit(data, steps_per_epoch=3, verbose=0)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        model.fit(data, steps_per_epoch=10, verbose=0)
        seconds.append((time.perf_counter() - begin) / 10)
    return {f"{os.environ['HVDKIT_ENGINE']} {compression}": statistics.median(seconds)}


def measure(cluster, arguments: argparse.Namespace, engine: str, extra: dict[str, str]) -> dict[str, float]:
    """What rank 0 reports of one launch on the hosts of a cluster."""
    hosts = ",".join(f"{host}:{arguments.ranks_per_host}" for host in cluster.hosts)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **extra}
    run = [sys.executable, "-m", "hvdkit", "run", "-H", hosts, "--launcher", ENGINES[engine], "--engine", engine]
    rank = [__file__, arguments.what, "--rank", "--sizes", arguments.sizes, "--workload", arguments.workload]
    words = [
        *run,
        "--network-interfaces",
        "eth0",
        "-x",
        "BENCH_COMPRESSION",
        *rank,
        "--repeats",
        str(arguments.repeats),
    ]
    done = cluster.run(cluster.hosts[0], words, env=environ, timeout=900)
    for line in done.stdout.splitlines():
        if line.startswith(_REPORT):
            return json.loads(line.removeprefix(_REPORT))
    raise SystemExit(f"{engine}: {done.stdout}\n{done.stderr}")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["allreduce", "step"])
    parser.add_argument("--hosts", default="2", help="how many, separated by commas")
    parser.add_argument("--ranks-per-host", type=int, default=1)
    parser.add_argument("--rates", default="1gbit", help="of a host's link, e.g. none,1gbit,100mbit")
    parser.add_argument("--sizes", default="4000,4000000,40000000", help="bytes of an all-reduce")
    parser.add_argument("--workload", default="W1")
    parser.add_argument("--rounds", type=int, default=3, help="launches of each engine")
    parser.add_argument("--repeats", type=int, default=5, help="measurements in a launch")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [int(float(size)) for size in arguments.sizes.split(",")]
    if arguments.rank:
        rank = allreduce_rank(sizes, arguments.repeats) if arguments.what == "allreduce" else None
        measured = rank or step_rank(arguments.workload, arguments.repeats)
        import hvdkit as hvd

        if hvd.rank() == 0:
            print(_REPORT + json.dumps(measured), flush=True)
        return
    sys.path.insert(0, str(ROOT))
    from tests.cluster.hosts import Cluster, why_not

    if why_not():
        raise SystemExit(why_not())
    compressions = ["none", "fp16"] if arguments.what == "step" else ["none"]
    print("| hosts | ranks | rate | what | milliseconds | to the bound |\n|---|---|---|---|---|---|")
    for size in map(int, arguments.hosts.split(",")):
        with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), size) as cluster:
            for rate in arguments.rates.split(","):
                cluster.limit(None if rate == "none" else rate)
                seconds = defaultdict(list)
                launches = itertools.product(range(arguments.rounds), ENGINES, compressions)
                for _, engine, compression in launches:
                    measured = measure(cluster, arguments, engine, {"BENCH_COMPRESSION": compression})
                    for what, value in measured.items():
                        seconds[what].append(value)
                for what, values in sorted(seconds.items()):
                    median, ranks = statistics.median(values), size * arguments.ranks_per_host
                    ratio = f"{median / bound:.2f}" if (bound := bound_of(what, size, rate)) else ""
                    print(f"| {size} | {ranks} | {rate} | {what} | {median * 1e3:,.3f} | {ratio} |", flush=True)


def bound_of(what: str, hosts: int, rate: str) -> float:
    """Seconds that an all-reduce takes at least at this rate; 0 where that is not known."""
    number, unit = rate[:-4], rate[-4:]
    size = what.split(maxsplit=1)[0]
    if unit not in BITS or not size.isdigit():
        return 0.0
    sent = int(size) / (2 if "fp16" in what else 1)
    return 2 * (hosts - 1) / hosts * sent * 8 / (float(number) * BITS[unit])


if __name__ == "__main__":
    try:
        main()
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"A launch did not end: {error}") from None
