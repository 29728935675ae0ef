"""How fast is a training step? Samples per second of fit(), variants interleaved in the same processes.

    python scripts/bench_step.py                             all workloads, one process and two ranks under horovodrun
    python scripts/bench_step.py --launcher mpirun --workloads W3 --rounds 9 --json w3.json

One process: plain Keras against hvdkit in a world of one. Several ranks: hvdkit, hvdkit with fp16, Horovod's own
DistributedGradientTape in a Keras train_step, and no exchange at all (what the processes could reach). A round times
one region of each variant, one after the other; the table has the medians over the rounds, and the medians of the
ratios within a round, which is what to compare: the machine's speed drifts, the ratio does not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

WORKLOADS = {
    "W1": {"what": "MLP 784-2048-2048-2048-10, 10 M parameters", "batch": 64},
    "W2": {"what": "CNN 28x28 conv32-conv64-pool-dense128", "batch": 128},
    "W3": {"what": "60 x (Dense 64 + BatchNorm + relu), 242 small tensors", "batch": 32},
}
ONE = ("keras", "hvdkit")
DIRECT = ("hvdkit", "hvdkit fp16", "no exchange")
SEVERAL = ("hvdkit", "hvdkit fp16", "horovod tape", "no exchange")


def model_and_data(workload: str):
    """A workload's model and one batch of random data."""
    import keras
    import numpy as np

    layers = keras.layers
    rng, batch = np.random.default_rng(0), WORKLOADS[workload]["batch"]
    if workload == "W1":
        body = [keras.Input((784,)), *(layers.Dense(2048, activation="relu") for _ in range(3))]
    elif workload == "W2":
        body = [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
        ]
    else:
        body = [keras.Input((64,))]
        for _ in range(60):
            body += [layers.Dense(64), layers.BatchNormalization(), layers.ReLU()]
    model = keras.Sequential([*body, layers.Dense(10)])
    x = rng.normal(size=(batch, *model.input_shape[1:])).astype("float32")
    return model, x, rng.integers(0, 10, size=batch)


def compiled(variant: str, workload: str):
    """A variant's compiled model, and its batch repeated for ever."""
    import keras
    import tensorflow as tf

    import hvdkit as hvd

    keras.utils.set_random_seed(1)
    model, x, y = model_and_data(workload)
    optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
    if variant == "horovod tape":
        model = _tape_model(model)
    elif variant.startswith("hvdkit"):
        compression = "fp16" if variant.endswith("fp16") else None
        optimizer = hvd.DistributedOptimizer(optimizer, compression=compression)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, tf.data.Dataset.from_tensors((x, y)).repeat()


def _tape_model(model):
    import horovod.tensorflow as horovod
    import keras
    import tensorflow as tf

    class TapeModel(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x, y, y_pred)
                self._loss_tracker.update_state(loss)
            tape = horovod.DistributedGradientTape(tape)
            weights = [v.value for v in self.trainable_variables]
            self.optimizer.apply(tape.gradient(loss, weights), self.trainable_variables)
            return self.compute_metrics(x, y, y_pred)

    return TapeModel(model.inputs, model.outputs)


class Stopwatch:
    """Wall and CPU seconds of the steps of a fit, from the third to the end; and of what comes around them."""

    def __new__(cls):
        import keras

        class Callback(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                if batch == 2:  # the communication proof has looked at the first step
                    self.begin = time.perf_counter(), time.process_time()

            def on_epoch_end(self, epoch, logs=None):  # before the proof's, which guards add at the end
                self.wall = time.perf_counter() - self.begin[0]
                self.cpu = time.process_time() - self.begin[1]

        return Callback()


def region(variant: str, model, dataset, steps: int) -> tuple[float, float]:
    """Wall and CPU seconds of so many steps inside a fit."""
    import contextlib

    import hvdkit as hvd

    watch = Stopwatch()
    with contextlib.nullcontext() if variant.startswith("hvdkit") else hvd.local_training():
        model.fit(dataset, steps_per_epoch=steps + 2, epochs=1, verbose=0, callbacks=[watch])
    return watch.wall, watch.cpu


def measure(workload: str, variants: list, rounds: int, seconds: float, threads: int) -> dict:
    """Per variant and round: samples per second of all ranks together, and CPU seconds per 1,000 samples.

    And the cost of one check of the communication proof, in seconds.
    """
    import tensorflow as tf

    import hvdkit as hvd

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    models = {variant: compiled(variant, workload) for variant in variants}
    steps = {}
    for variant, (model, dataset) in models.items():  # warm-up: trace, then find out how many steps fill the time
        region(variant, model, dataset, 3)
        took, _ = region(variant, model, dataset, 20)
        steps[variant] = int(hvd.broadcast_object(max(10, round(seconds / took * 20))))
    rates: dict[str, list] = {variant: [] for variant in variants}
    cpu: dict[str, list] = {variant: [] for variant in variants}
    batch = WORKLOADS[workload]["batch"] * hvd.size()
    for _ in range(rounds):
        for variant, (model, dataset) in models.items():
            hvd.barrier()
            mine = region(variant, model, dataset, steps[variant])
            everyones = hvd.allgather_object(list(mine))
            samples = steps[variant] * batch
            rates[variant].append(samples / max(wall for wall, _ in everyones))
            cpu[variant].append(1000 * sum(seconds for _, seconds in everyones) / samples)
    return {"rates": rates, "cpu": cpu, "proof": proof_seconds(models["hvdkit"][0])}


def proof_seconds(model) -> float:
    """What one check of the communication proof takes: the median of a few."""
    import hvdkit as hvd

    times = []
    for _ in range(7):
        hvd.barrier()
        begin = time.perf_counter()
        hvd.allgather_object([])
        hvd.assert_equal_weights(model)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def versions() -> dict:
    from importlib.metadata import version

    names = ("keras", "horovod", "numpy", "hvdkit")
    found = {name: version(name) for name in names}
    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            found["tensorflow"] = version(name)
        except ImportError:
            continue
    return {**found, "python": platform.python_version(), "machine": platform.machine()}


def row(workload: str, ranks: int, variant: str, measured: dict, against: str) -> dict:
    """A row of the table: medians, and the medians of the ratios within a round."""
    rates, cpu = measured["rates"], measured["cpu"]
    ratios = sorted(a / b for a, b in zip(rates[variant], rates[against], strict=True))
    cpu_ratios = [a / b for a, b in zip(cpu[variant], cpu[against], strict=True)]
    return {
        "workload": workload,
        "ranks": ranks,
        "variant": variant,
        "samples/s": round(statistics.median(rates[variant]), 1),
        "to": against,
        "ratio": round(statistics.median(ratios), 3),
        "middle half": f"{ratios[len(ratios) // 4]:.2f}-{ratios[-1 - len(ratios) // 4]:.2f}",
        "CPU time ratio": round(statistics.median(cpu_ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="W1,W2,W3", help="default: %(default)s")
    parser.add_argument("--np", type=int, default=2, help="ranks (default: %(default)s)")
    parser.add_argument("--launcher", default="horovodrun", choices=["horovodrun", "mpirun"])
    parser.add_argument("--engine", default="auto", help="auto, horovod or mpi (default: %(default)s)")
    parser.add_argument("--several-only", action="store_true", help="leave out what one process reaches")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one region (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write everything here")
    arguments = parser.parse_args()
    from hvdkit.testing import run_ranks

    direct = arguments.engine == "mpi" or (arguments.engine == "auto" and arguments.launcher == "mpirun")
    rows, raw = [], {}
    for workload in arguments.workloads.split(","):
        # Not Horovod's tape beside the direct engine: its thread would slow down the whole process.
        several = (arguments.np, DIRECT, "no exchange") if direct else (arguments.np, SEVERAL, "horovod tape")
        for ranks, variants, against in ((1, ONE, "keras"), several)[arguments.several_only :]:
            print(f"{workload}, {ranks} rank(s): {', '.join(variants)} ...", file=sys.stderr, flush=True)
            settings = (list(variants), arguments.rounds, arguments.seconds, arguments.threads)
            environ = {"OMP_NUM_THREADS": str(arguments.threads), "HVDKIT_ENGINE": arguments.engine}
            done = run_ranks(
                ranks, measure, workload, *settings, launcher=arguments.launcher, timeout=3600, environ=environ
            )
            measured = raw[f"{workload} {ranks}"] = done.values[0]
            rows += [row(workload, ranks, variant, measured, against) for variant in variants]

    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for cells in rows:
        print("| " + " | ".join(map(str, cells.values())) + " |")
    for name, measured in raw.items():
        print(f"one check of the communication proof, {name} rank(s): {1000 * measured['proof']:.1f} ms")
    if arguments.json:
        report = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "arguments": {k: str(v) for k, v in vars(arguments).items()},
            "versions": versions(),
            "rows": rows,
            "rounds": raw,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
