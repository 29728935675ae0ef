"""A peer: MultiWorkerMirroredStrategy in a loop of one's own (its fit raises with Keras 3). Starts its ranks:
multiworker.py RANKS WORKLOAD THREADS"""

import json
import os
import socket
import subprocess
import sys


def rank(workload: str, threads: str) -> None:
    import keras
    import tensorflow as tf
    from tensorflow.python.eager import context

    from hvdkit.bench import worker, workloads

    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    # Stopped while others are measured, a worker must not be taken for dead.
    context.context().configure_coordination_service("standalone", heartbeat_timeout_in_ms=86_400_000)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    x, y = workloads.data(workload)
    with strategy.scope():
        model = workloads.model(workload, keras)
        optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
        optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inputs, labels = tf.constant(x), tf.constant(y)

    @tf.function
    def step():
        def one():
            with tf.GradientTape() as tape:
                loss = loss_of(labels, model(inputs, training=True)) / strategy.num_replicas_in_sync
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

        strategy.run(one)

    number = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    worker.serve(os.environ["HVDKIT_BENCH_FOLDER"], number, worker.loop(step))


def main(ranks: str, workload: str, threads: str) -> None:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(ranks))]
    workers = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    started = []
    for number in range(int(ranks)):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": number}}
        command = [sys.executable, __file__, workload, threads]
        started.append(subprocess.Popen(command, env={**os.environ, "TF_CONFIG": json.dumps(config)}))
    sys.exit(max(abs(process.wait()) for process in started))


if __name__ == "__main__":
    rank(*sys.argv[1:]) if len(sys.argv) == 3 else main(*sys.argv[1:])
