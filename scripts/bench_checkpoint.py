"""What checkpoints cost: training that waits for them, and the disk.

    mpirun -np 2 python scripts/bench_checkpoint.py stall     a save every 20 steps beside none, in turns
    python scripts/bench_checkpoint.py write                  1 GB of weights beside `dd conv=fsync`, in turns

The directory is --directory, which should be on the disk that checkpoints go to.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

EVERY = 20


def stall(directory: str, rounds: int, optimizer: str) -> None:
    """The MLP of 10 M parameters, batch 64: rounds with saves and rounds without, one after the other."""
    import keras
    import tensorflow as tf

    import hvdkit as hvd
    from hvdkit.bench import workloads
    from hvdkit.checkpoint.saver import Saver
    from hvdkit.keras_internals.model_contents import build_optimizer

    tf.config.threading.set_intra_op_parallelism_threads(1)
    hvd.init(consistency_check=False)
    hvd.set_seed(1)
    model = workloads.model("W1", keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.get(optimizer)), loss)
    build_optimizer(model)
    batch = tuple(map(tf.constant, workloads.data("W1")))
    saver = Saver(directory)
    model.make_train_function()

    def steps(n: int) -> float:
        begin = time.perf_counter()
        for _ in range(n):
            model.train_function(iter([batch]))
        return time.perf_counter() - begin

    steps(10)
    plain, saving, waits, number = [], [], [], 0
    for _ in range(rounds):
        plain.append(steps(3 * EVERY) / (3 * EVERY))
        seconds = 0.0
        for _ in range(3):
            number += EVERY
            waits.append(saver.save(model, number, 0, {}))
            seconds += waits[-1] + steps(EVERY)
        saving.append(seconds / (3 * EVERY))
        saver.wait()
    saver.close()
    if hvd.rank() == 0:
        ratio = statistics.median(s / p for s, p in zip(saving, plain, strict=True))
        step = statistics.median(plain)
        print(
            f"{hvd.size()} ranks, {optimizer}: a step {step * 1e3:.1f} ms, with a save every {EVERY} steps {ratio:.3f} "
            f"times that (median of {rounds} rounds); training waits {statistics.median(waits) * 1e3:.1f} ms per save, "
            f"{statistics.median(waits) / EVERY / step:.1%} of the steps' time; a save takes {saver.seconds:.2f} s"
        )


def write(directory: str, rounds: int) -> None:
    """A part of 1 GB, committed, beside as many bytes by dd."""
    from hvdkit.checkpoint.storage.store import RetentionPolicy, Store

    arrays = {f"weights/{i}": np.random.default_rng(i).random((64, 2**18)).astype("float32") for i in range(15)}
    size = sum(a.nbytes for a in arrays.values())
    store, ratios, speeds = Store(directory), [], []
    source = Path("/dev/shm", f"hvdkit-bench-{os.getpid()}")  # noqa: S108  memory, so that dd reads as fast as we do
    source.write_bytes(b"".join(a.tobytes() for a in arrays.values()))
    try:
        for step in range(rounds):
            target = Path(directory, "dd")
            begin = time.perf_counter()
            dd = ["dd", f"if={source}", f"of={target}", "bs=4M", "conv=fsync"]
            subprocess.run(dd, check=True, capture_output=True)
            theirs = time.perf_counter() - begin
            target.unlink()
            begin = time.perf_counter()
            writer = store.writer(step, "bench")
            writer.write("common", arrays)
            writer.commit(["common"], epoch=0, world_size=1)
            ours = time.perf_counter() - begin
            store.prune(RetentionPolicy(last=1))
            ratios.append(theirs / ours)
            speeds.append((size / ours / 1e6, size / theirs / 1e6))
    finally:
        source.unlink()
    ours, theirs = (statistics.median(s) for s in zip(*speeds, strict=True))
    print(f"{size / 1e9:.2f} GB: {ours:.0f} MB/s, dd {theirs:.0f} MB/s, ratio {statistics.median(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["stall", "write"])
    parser.add_argument("--directory", help="made anew in it; default: the working directory")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--optimizer", default="adam")
    words = parser.parse_args()
    parent = words.directory or os.getcwd()
    if words.what == "write":
        directory = tempfile.mkdtemp(dir=parent, prefix="bench-checkpoint-")
        write(directory, words.rounds)
    else:
        directory = os.path.join(parent, "bench-checkpoint-stall")
        stall(directory, words.rounds, words.optimizer)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
