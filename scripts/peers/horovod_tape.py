"""A peer: Horovod's own tape in a Keras 3 train_step. One rank: horovod_tape.py WORKLOAD THREADS"""

import os
import sys

import horovod.tensorflow as horovod
import keras
import tensorflow as tf

from hvdkit.bench import worker, workloads
from hvdkit.bench.step import timed_fit


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


def main(workload: str, threads: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    horovod.init()
    inner = workloads.model(workload, keras)
    model = TapeModel(inner.inputs, inner.outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9), loss)
    dataset = tf.data.Dataset.from_tensors(workloads.data(workload)).repeat()
    worker.serve(os.environ["HVDKIT_BENCH_FOLDER"], horovod.rank(), lambda steps: timed_fit(model, dataset, steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
