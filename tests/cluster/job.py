"""Trains on scikit-learn's digits, and says what has become of it: run by `hvdkit run` on the hosts of a cluster."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

import hvdkit as hvd

hvd.init()
hvd.set_seed(1)
images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32")
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(3e-3)), loss, metrics=["accuracy"])
tested = np.arange(len(images)) % 5 == 4
data = hvd.data.shard(images[~tested], labels[~tested], batch_size=32)
model.fit(data, epochs=25, verbose=0, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
out = {
    "host": socket.gethostname(),
    "place": os.getcwd(),
    "variable": os.environ.get("HVDKIT_TEST_ARRIVES"),
    "weights": hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest(),
    "accuracy": model.evaluate(images[tested], labels[tested], verbose=0, return_dict=True)["accuracy"],
}
reports = hvd.allgather_object(out)
if hvd.rank() == 0:
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(reports, file)
