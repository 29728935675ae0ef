"""A peer: Horovod 0.28.1 with Keras 2.15, as its documentation says. One rank: horovod_keras2.py WORKLOAD THREADS"""

import os
import sys
import time
from pathlib import Path

import horovod.tensorflow.keras as horovod
import tensorflow as tf

# This environment has no hvdkit: the two files are loaded as they lie.
sys.path.insert(0, str(Path(__file__).parents[2] / "hvdkit" / "bench"))
import worker
import workloads


class Stopwatch(tf.keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            self.begin = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.taken = time.perf_counter() - self.begin[0], time.process_time() - self.begin[1]


def main(workload: str, threads: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    horovod.init()
    model = workloads.model(workload, tf.keras)
    optimizer = horovod.DistributedOptimizer(tf.keras.optimizers.SGD(0.001, momentum=0.9))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    dataset = tf.data.Dataset.from_tensors(workloads.data(workload)).repeat()

    def measure(steps: int) -> tuple[float, float]:
        watch = Stopwatch()
        model.fit(dataset, steps_per_epoch=steps + 2, epochs=1, verbose=0, callbacks=[watch])
        return watch.taken

    worker.serve(os.environ["HVDKIT_BENCH_FOLDER"], horovod.rank(), measure)


if __name__ == "__main__":
    main(*sys.argv[1:])
