"""What is trained: three models between which most real ones lie, on random data."""

from __future__ import annotations

from typing import Any

import numpy as np

#: What it is, and the samples in a step of one rank.
WORKLOADS = {
    "W1": ("MLP 784-2048-2048-2048-10, 10 M parameters: many bytes", 64),
    "W2": ("CNN 28x28 conv32-conv64-pool-dense128: much to compute", 128),
    "W3": ("60 x (Dense 64 + BatchNorm + relu): 242 small tensors", 32),
}


def data(workload: str) -> tuple[np.ndarray, np.ndarray]:
    """One batch: images or vectors of float32, and a class of 10 for each."""
    rng, batch = np.random.default_rng(0), WORKLOADS[workload][1]
    shape = {"W1": (784,), "W2": (28, 28, 1), "W3": (64,)}[workload]
    return rng.normal(size=(batch, *shape)).astype("float32"), rng.integers(0, 10, size=batch)


def model(workload: str, keras: Any) -> Any:
    """The workload's model, of Keras 3 or of Keras 2."""
    layers = keras.layers
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
    return keras.Sequential([*body, layers.Dense(10)])
