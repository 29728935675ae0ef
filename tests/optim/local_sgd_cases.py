"""What the tests of local SGD do on every rank, and in one process."""

from __future__ import annotations

import keras
import numpy as np

import hvdkit as hvd


def samples(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)).astype("float32")
    return x, (x @ rng.normal(size=(6, 2))).astype("float32")


def model() -> keras.Model:
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(2)])


def made(how: dict):
    inner = {
        "sgd": lambda: keras.optimizers.SGD(0.05),
        "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        "accumulate": lambda: keras.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=2),
        "adam": lambda: keras.optimizers.Adam(0.01),
        "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=8.0),
    }[how["inner"]]()
    arguments = {
        k: v for k, v in how.items() if k in ("sync_period", "start_step", "outer_lr", "outer_momentum", "nesterov")
    }
    return hvd.optim.LocalSGD(inner, **arguments) if arguments else hvd.DistributedOptimizer(inner)


class Watch(keras.callbacks.Callback):
    """The first weight before every step, and whether the ranks are equal at the end of an epoch."""

    def __init__(self):
        super().__init__()
        self.seen, self.equal = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(self.model.weights[0].numpy().copy())

    def on_epoch_end(self, epoch, logs=None):
        self.equal.append(hvd.assert_equal_weights(self.model))


def train(how: dict) -> dict:
    x, y = samples(how["n"])
    net, watch = model(), Watch()
    inner = how.get("built") and keras.optimizers.SGD(0.05)
    if inner:  # as keras.models.load_model leaves it
        inner.build(net.trainable_variables)
    net.compile(
        hvd.optim.LocalSGD(inner, sync_period=4) if inner else made(how), "mse", jit_compile=how.get("jit", False)
    )
    data = hvd.data.shard(x, y, batch_size=4, shuffle=False)
    validation = (x[:8], y[:8]) if how.get("validation") else None
    history = net.fit(data, epochs=how["epochs"], verbose=0, callbacks=[watch], validation_data=validation).history
    optimizer = getattr(net.optimizer, "inner_optimizer", net.optimizer)
    return {
        "weights": [w.numpy() for w in net.weights],
        "seen": watch.seen,
        "reductions": int(optimizer._hvdkit.pipeline.reductions.numpy()),
        "validation": history.get("val_loss"),
    }


def all_of(hows: dict) -> dict:
    return {name: train(how) for name, how in hows.items()}


def twice(how: dict, fits: int) -> list:
    """Two epochs, in one fit or in two, each of which begins with a broadcast."""
    x, y = samples(80)
    net = model()
    net.compile(made(how), "mse")
    data = hvd.data.shard(x, y, batch_size=4, shuffle=False)
    for i in range(fits):
        net.fit(
            data, initial_epoch=2 * i // fits, epochs=2 * (i + 1) // fits, verbose=0, callbacks=hvd.callbacks.defaults()
        )
    return [w.numpy() for w in net.weights]


def go_on(folder: str, how: dict, straight: bool) -> dict:
    """12 steps; or 7, a checkpoint in the middle of a round, and the rest in a model that is new."""
    x, y = samples(how["n"])

    def build():
        net = model()
        net.compile(made(how), "mse")
        return net

    class StopAt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 6:
                hvd.checkpoint.save(self.model, folder, step=7)
                self.model.stop_training = True

    net = build()
    mine = slice(hvd.rank(), None, hvd.size())
    data = lambda rows: hvd.data.shard(x[mine][rows], y[mine][rows], batch_size=2, shuffle=False, presharded=True)
    if straight:
        net.fit(data(slice(None)), epochs=1, verbose=0)
        return {"weights": [w.numpy() for w in net.weights]}
    net.fit(data(slice(None)), epochs=1, verbose=0, callbacks=[StopAt()])
    keras.utils.set_random_seed(9)
    net = build()
    hvd.checkpoint.restore(net, folder)
    apart = net.weights[0].numpy()
    net.fit(data(slice(14, None)), epochs=1, verbose=0)
    return {"weights": [w.numpy() for w in net.weights], "apart": apart}
