"""One training, described by a few words, that gives the same weights on N ranks and in one process."""

from __future__ import annotations

import itertools

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.keras_internals.model_contents import reduction_state_of
from tests.chaos.common import count

STEPS, GLOBAL_BATCH = 20, 16
OPTIMIZERS = {
    "sgd": lambda **kw: keras.optimizers.SGD(0.05, momentum=0.9, **kw),
    "adam": lambda **kw: keras.optimizers.Adam(1e-3, **kw),
    "adamw": lambda **kw: keras.optimizers.AdamW(1e-3, weight_decay=0.01, **kw),
    "rmsprop": lambda **kw: keras.optimizers.RMSprop(1e-3, **kw),
    "adagrad": lambda **kw: keras.optimizers.Adagrad(0.01, **kw),
    "lion": lambda **kw: keras.optimizers.Lion(1e-4, **kw),
}
# What else Keras has, for sparse gradients: adaptive optimizers update the rows that a slice names, and clip slices.
SPARSE = {
    **OPTIMIZERS,
    "adadelta": lambda **kw: keras.optimizers.Adadelta(0.5, **kw),
    "adafactor": lambda **kw: keras.optimizers.Adafactor(1e-2, **kw),
    "adamax": lambda **kw: keras.optimizers.Adamax(1e-3, **kw),
    "nadam": lambda **kw: keras.optimizers.Nadam(1e-3, **kw),
    "ftrl": lambda **kw: keras.optimizers.Ftrl(0.05, **kw),
    "lamb": lambda **kw: keras.optimizers.Lamb(1e-3, **kw),
    "muon": lambda **kw: keras.optimizers.Muon(1e-3, **kw),
    "centered": lambda **kw: keras.optimizers.RMSprop(1e-3, centered=True, momentum=0.5, **kw),
    "ema": lambda **kw: keras.optimizers.Adam(1e-3, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5, **kw),
    "lossscale": lambda **kw: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3, **kw)),
}
# Small enough that each really clips.
CLIPS = {"": {}, "clipnorm": {"clipnorm": 0.1}, "clipvalue": {"clipvalue": 0.02}, "global": {"global_clipnorm": 0.2}}
EXTRAS = {
    "sgd-decay": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam-ema": lambda: keras.optimizers.Adam(1e-3, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5),
    "adam-scaled": lambda: keras.optimizers.Adam(1e-3, loss_scale_factor=128.0, global_clipnorm=0.2),
    "adam-schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, 20)),
    "adam-lossscale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3, global_clipnorm=0.2)),
    "adam-lossscale-k2": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(1e-3, clipnorm=0.1, gradient_accumulation_steps=2)
    ),
    "adam-together": lambda: keras.optimizers.Adam(1e-3, global_clipnorm=0.2),
    "adam-together-k2": lambda: keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2),
    "lars-schedule": lambda: hvd.optim.LARS(_schedule(1), weight_decay=0.01, trust_coefficient=0.02),
    "lars-schedule-k4": lambda: hvd.optim.LARS(_schedule(4), weight_decay=0.01, gradient_accumulation_steps=4),
    "lars-lossscale": lambda: keras.optimizers.LossScaleOptimizer(hvd.optim.LARS(0.5, global_clipnorm=0.2)),
    "lamb": lambda: keras.optimizers.Lamb(_schedule(1, 0.005), weight_decay=0.01),
    "adam-lossscale-outside": lambda: keras.optimizers.Adam(1e-3, global_clipnorm=0.2),
    "adam-lossscale-outside-k2": lambda: keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2),
}


def _schedule(accumulation: int, rate: float = 0.2):
    """The rate of this batch, whoever shares it: rising for half of the steps, then a curve."""
    batch = GLOBAL_BATCH // hvd.size()
    return hvd.schedules.large_batch(rate, 16, batch, 10, 1, "polynomial", epochs=3, accumulation=accumulation)


def names() -> list[str]:
    """Optimizer x clip x accumulation, and the special ones; of the grid, every pair of two, or (long) every case."""
    grid = [
        "-".join(filter(None, [optimizer, clip, f"k{k}"]))
        for (i, optimizer), (j, clip), (m, k) in itertools.product(
            enumerate(OPTIMIZERS), enumerate(CLIPS), enumerate((1, 2, 4))
        )
        if count(0, 1) or (i + j) % 3 == m
    ]
    frozen = [f"{optimizer}-frozenbn" for optimizer in OPTIMIZERS]
    # Every optimizer with every clip; of Muon where Keras has it.
    embedded = [
        "-".join(filter(None, [optimizer, clip, "embedding"]))
        for optimizer, clip in itertools.product(SPARSE, CLIPS)
        if optimizer != "muon" or hasattr(keras.optimizers, "Muon")
    ]
    return [*grid, *EXTRAS, *frozen, *embedded]


def train(name: str) -> dict:
    """Train a case on this rank's part of each global batch, in one process by plain Keras; the weights, and how often
    gradients were reduced."""
    keras.utils.set_random_seed(1)
    model, x, y = _model_and_data(name)
    optimizer = _optimizer(name)
    if hvd.size() > 1:
        optimizer = hvd.DistributedOptimizer(optimizer)
    if name.startswith("adam-lossscale-outside"):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse", steps_per_execution=5 if "together" in name else 1)
    if hvd.size() == 1:
        optimizer.build(model.trainable_variables)  # else the step is traced a second time, once they are there
    mine = np.arange(len(x)).reshape(STEPS, hvd.size(), -1)[:, hvd.rank()].ravel()
    model.fit(x[mine], y[mine], batch_size=GLOBAL_BATCH // hvd.size(), epochs=1, shuffle=False, verbose=0)
    distribution = reduction_state_of(optimizer)
    reductions = 0 if distribution is None else int(distribution.pipeline.reductions)
    return {"weights": [np.asarray(w) for w in model.get_weights()], "reductions": reductions}


def train_all(cases: list[str]) -> dict:
    """Train several cases in one process, one after the other."""
    results = {}
    for name in cases:
        results[name] = train(name)
        keras.backend.clear_session()
    return results


def _optimizer(name: str) -> keras.optimizers.Optimizer:
    if name in EXTRAS:
        return EXTRAS[name]()
    optimizer, *words = name.split("-")
    arguments = {}
    for word in words:
        arguments |= CLIPS.get(word, {})
        if word in ("k2", "k4"):
            arguments["gradient_accumulation_steps"] = int(word[1])
    return SPARSE[optimizer](**arguments)


def _model_and_data(name: str):
    rng = np.random.default_rng(3)
    n = STEPS * GLOBAL_BATCH
    if name.endswith("embedding"):
        x = rng.integers(0, 40, size=(n, 5)).astype("int32")
        y = np.sin(x.sum(1, keepdims=True) / 10).astype("float32")
        layers = [keras.Input((5,), dtype="int32"), keras.layers.Embedding(50, 8)]
        layers.append(keras.layers.GlobalAveragePooling1D())
    else:
        x = rng.normal(size=(n, 6)).astype("float32")
        y = np.sin(x.sum(1, keepdims=True)).astype("float32")
        layers = [keras.Input((6,))]
    layers.append(keras.layers.Dense(12, activation="tanh"))
    if name.endswith("frozenbn"):
        layers.append(keras.layers.BatchNormalization(trainable=False))
    layers += [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)]
    return keras.Sequential(layers), x, y
