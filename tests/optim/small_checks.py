"""The timeline, and single things that were broken once."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from tests.optim.check_common import message

_REDUCED = re.compile("NEGOTIATE_ALLREDUCE|allreduce average")  # Horovod's word, and the direct engine's


def timeline() -> dict:
    """A timeline holds what was done between start and stop."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "timeline.json"
        hvd.start_timeline(path, mark_cycles=True)
        time.sleep(0.5)
        hvd.allreduce(np.ones(4, np.float32), name="seen")
        time.sleep(0.5)
        hvd.stop_timeline()
        text = ""
        for _ in range(100 if hvd.rank() == 0 else 1):  # the file is written by a thread
            time.sleep(0.1)
            text = path.read_text() if path.exists() else ""
            if _REDUCED.search(text):
                break
    return {"text": bool(_REDUCED.search(text))}


def smaller_things() -> dict:
    """What a review found."""
    slices = tf.IndexedSlices(tf.constant([[4], [8]]), tf.constant([0, 1]), tf.constant([4, 1]))

    @tf.function
    def in_a_graph(x):
        return hvd.allreduce(1.5), hvd.alltoall(x)

    class Own:
        @staticmethod
        def compress(tensor):
            return tensor, None

        @staticmethod
        def decompress(tensor, ctx):
            return tensor

    from hvdkit.grads import tape_pipelines

    before = len(tape_pipelines._pipelines)
    for _ in range(3):
        v = tf.Variable(2.0)
        with tf.GradientTape() as plain:
            value = v * v
        hvd.DistributedGradientTape(plain, compression=Own).gradient(value, v)
    rows = tf.ones([hvd.size(), 1])
    number, shared_out = in_a_graph.get_concrete_function(tf.TensorSpec([None, 1]))(rows)
    # Alone in its function: nothing else is under way on any rank when it fails.
    shares = tf.function(hvd.alltoall).get_concrete_function(tf.TensorSpec([None, 1]))
    rest = message(lambda: shares(tf.ones([hvd.size() + 1, 1])))
    return {
        "whole slices": hvd.allreduce(slices).values.numpy().tolist(),
        "average by position": message(lambda: hvd.allreduce(np.ones(1), False)),
        "not built": message(
            lambda: hvd.PartialDistributedOptimizer(keras.optimizers.SGD(), local_layers=keras.layers.Dense(1))
        ),
        "named object": hvd.broadcast_object({"a": 1}, 0, name="n"),
        "uint32": hvd.broadcast(np.uint32([4_000_000_000]), 0).tolist(),
        "a rest": rest,
        "in a graph": [float(number), list(shared_out.shape)],
        "pipelines": len(tape_pipelines._pipelines) - before,
    }
