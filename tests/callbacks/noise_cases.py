"""A linear regression whose gradients' covariance is known, on every rank."""

from __future__ import annotations

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.errors import UsageError

N, SIGMA = 5, 0.7


def regression(how: dict) -> dict:
    """Gaussian inputs, weights that are ``distance`` away from the truth and stay there.

    One sample's gradient of half the squared error is x (x.d - noise), d the distance. With x of unit covariance its
    mean is d and the trace of its covariance (n + 1) |d|^2 + n sigma^2.
    """
    keras.mixed_precision.set_global_policy(how.get("policy", "float32"))
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(7)
    samples = how.get("samples", 16_000)
    truth = rng.normal(size=(N, 1))
    d = rng.normal(size=(N, 1))
    d *= how["distance"] / np.linalg.norm(d)
    x = rng.normal(size=(samples, N))
    y = x @ truth + SIGMA * rng.normal(size=(samples, 1))
    model = keras.Sequential([keras.Input((N,)), keras.layers.Dense(1, use_bias=False, dtype="float32")])
    model.set_weights([truth + d])
    steps = how.get("accumulate")
    sgd = keras.optimizers.SGD(0.0, gradient_accumulation_steps=steps)
    if how.get("policy"):
        sgd = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=2.0**10)
    optimizer = hvd.DistributedOptimizer(sgd, op=getattr(hvd, how.get("op", "Average")))
    half = lambda t, p: keras.ops.mean(keras.ops.square(t - p), axis=-1) / 2
    model.compile(optimizer, half, steps_per_execution=how.get("together", 1))
    callback = hvd.callbacks.GradientNoiseScale(every=how.get("every", 1), smoothing=0.3)
    data = hvd.data.shard(x.astype("float32"), y.astype("float32"), batch_size=how.get("batch", 8))
    if how.get("sizes"):
        data.resize(how["sizes"])
    if how.get("before"):  # a function that was traced without it
        model.fit(data, epochs=1, verbose=0)
    history = model.fit(data, epochs=2, verbose=0, callbacks=[callback])
    keras.mixed_precision.set_global_policy("float32")
    square = how["distance"] ** 2
    return {
        "estimate": history.history["noise_scale"][-1],
        "logs": history.history["noise_scale"],
        "exact": ((N + 1) * square + N * SIGMA**2) / square,
    }


def all_of(hows: dict) -> dict:
    return {name: regression(how) for name, how in hows.items()}


def training(epochs: int) -> dict:
    """A training that learns: the scale grows as the loss falls; the weights are those of one without the callback."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 1)) + rng.normal(size=(400, 1))).astype("float32")
    mixed = keras.Sequential([keras.Input((6,)), hvd.SyncBatchNormalization(), keras.layers.Dense(1)])
    mixed.compile(hvd.DistributedOptimizer("sgd"), "mse")
    refused = ""
    try:
        mixed.fit(x[:8], y[:8], verbose=0, callbacks=[hvd.callbacks.GradientNoiseScale(batch_size=8)])
    except UsageError as error:
        refused = str(error)
    weights, scales = [], None
    for callbacks in ([], [hvd.callbacks.GradientNoiseScale(every=1)]):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.02)), "mse")
        data = hvd.data.shard(x, y, batch_size=10)
        history = model.fit(data, epochs=epochs, verbose=0, callbacks=callbacks).history
        weights.append([w.numpy() for w in model.weights])
        scales = history.get("noise_scale")
    return {"weights": weights, "scales": scales, "refused": refused}
