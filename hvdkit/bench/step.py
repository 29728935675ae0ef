"""A training step: ``fit`` of a workload, plain and with hvdkit. Run as a module, it is one rank of a variant."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hvdkit.bench import report, worker
from hvdkit.bench.runner import Measurement, Variant
from hvdkit.bench.workloads import WORKLOADS, data, model
from hvdkit.utils import env

#: What others are compared to: with one rank, and with several.
PLAIN, NO_COMMUNICATION = "Keras", "no communication"


def variants(
    workload: str, ranks: int, threads: int, engines: dict[str, tuple[str, str]], extras: list
) -> list[Variant]:
    """What is measured interleaved.

    Args:
        workload: one of ``WORKLOADS``.
        ranks: how many ranks; 1 compares hvdkit in a single process with plain Keras.
        threads: of each rank.
        engines: a name and its launcher and engine, e.g. ``{"mpi": ("mpirun", "mpi")}``.
        extras: what is added to each engine besides nothing: ``"fp16"``, ``"xla"``, ``"bucket=65536"``
            (``bucket_bytes``).
    """
    if ranks == 1:
        return [variant(name, workload, 1, threads) for name in (PLAIN, "hvdkit")]
    made = [variant(NO_COMMUNICATION, workload, ranks, threads, next(iter(engines.values())))]
    for name, by in engines.items():
        names = [f"hvdkit {name}", *(f"hvdkit {name} {extra}" for extra in extras)]
        made += [variant(full, workload, ranks, threads, by) for full in names]
    return made


def variant(name: str, workload: str, ranks: int, threads: int, by: tuple[str, str] = ("", "auto")) -> Variant:
    """One of ``variants``; ``by`` is its launcher, "" for none, and its engine."""
    launcher, engine = by
    rank = ("-m", "hvdkit.bench.step", name, workload, str(threads))
    start = ("-m", "hvdkit", "run", "-np", str(ranks), "--launcher", launcher) if launcher else ()
    environ = {"HVDKIT_ENGINE": engine, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "2"}
    environ |= {
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "86400",
        "HVDKIT_DEADLINE": "0",
    }  # stopped, it must not be taken for dead
    return Variant(name, ranks, WORKLOADS[workload][1], (sys.executable, *start, *rank), environ)


def report_on(
    workloads: list[str],
    measure: Callable[[str], dict[str, list[Measurement]]],
    options: dict[str, Any],
    *,
    save_as: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure workloads one after the other, and print the table so far after each.

    Args:
        workloads: of ``WORKLOADS``.
        measure: returns the measurements of a workload's variants.
        options: for the report: ``ranks``, and whatever else.
        save_as: a JSON file for everything.
        plot: an image file for the ratios.
    """
    rows, measurements, against = [], {}, {}
    for workload in workloads:
        measurements[workload] = measure(workload)
        against[workload] = NO_COMMUNICATION if NO_COMMUNICATION in measurements[workload] else PLAIN
        rows += report.rows(
            {"workload": workload, "ranks": options["ranks"]}, measurements[workload], against[workload]
        )
        click.echo(report.table(rows))
        if save_as:
            report.save(save_as, options, rows, measurements)
    if plot:
        report.plot(plot, measurements, against)


def among_ranks(workload: str, rounds: int, seconds: float) -> dict[str, list[Measurement]]:
    """As ``runner.interleave``, of hvdkit and no communication, among ranks that are launched already: each process
    runs both.

    Every rank calls it, and all get the same. What other programs use of the cores is not known then. Horovod's thread,
    if it moves the bytes, slows down both.
    """
    import hvdkit as hvd

    fits = {name: functools.partial(timed_fit, *compiled(name, workload)) for name in (NO_COMMUNICATION, "hvdkit")}

    def measure(name: str, steps: int) -> Measurement:
        hvd.barrier()
        with hvd.local_training() if name == NO_COMMUNICATION else contextlib.nullcontext():
            done = worker.timed(fits[name], steps)
        return Measurement.from_ranks(hvd.allgather_object(done), steps * WORKLOADS[workload][1] * hvd.size())

    steps = {}
    for name in fits:
        measure(name, 3)
        per_step = WORKLOADS[workload][1] * hvd.size() / measure(name, 30).rate
        steps[name] = max(5, round(seconds / per_step))
    measurements: dict[str, list[Measurement]] = {name: [] for name in fits}
    for _ in range(rounds):
        for name, series in measurements.items():
            series.append(measure(name, steps[name]))
    return measurements


def compiled(name: str, workload: str) -> tuple[Any, Any]:
    """A variant's compiled model, and its batch repeated for ever."""
    import keras
    import tensorflow as tf

    import hvdkit as hvd

    keras.utils.set_random_seed(1)
    made, batch, words = model(workload, keras), data(workload), name.split()
    optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
    if words[0] == "hvdkit":
        bucket_bytes = next((int(word[7:]) for word in words if word.startswith("bucket=")), None)
        compression = "fp16" if "fp16" in words else None
        optimizer = hvd.DistributedOptimizer(optimizer, compression=compression, bucket_bytes=bucket_bytes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(optimizer, loss, jit_compile="xla" in words)
    return made, tf.data.Dataset.from_tensors(batch).repeat()


def timed_fit(made: Any, dataset: Any, steps: int) -> tuple[float, float]:
    """Wall and CPU seconds of so many steps of a fit."""
    watch = _stopwatch_callback()
    made.fit(dataset, steps_per_epoch=steps + 2, epochs=1, verbose=0, callbacks=[watch])
    return watch.wall, watch.cpu


def _stopwatch_callback() -> Any:
    """A callback that times the steps of a fit from the third to the end, and nothing that comes around them."""
    import keras

    class Stopwatch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:  # the consistency check has looked at the first step
                self.begin = time.perf_counter(), time.process_time()

        def on_epoch_end(self, epoch, logs=None):  # before the consistency check's, which `fit` adds at the end
            self.wall = time.perf_counter() - self.begin[0]
            self.cpu = time.process_time() - self.begin[1]

    return Stopwatch()


def _rank(name: str, workload: str, threads: str) -> None:
    import tensorflow as tf

    import hvdkit as hvd

    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    hvd.init()
    made, dataset = compiled(name, workload)
    context = contextlib.nullcontext() if name.startswith("hvdkit") else hvd.local_training()
    with context:
        measure = functools.partial(timed_fit, made, dataset)
        worker.serve(env.get("HVDKIT_BENCH_FOLDER"), hvd.rank(), measure)


if __name__ == "__main__":
    _rank(*sys.argv[1:])
