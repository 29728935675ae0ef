"""What the tests of ``hvd.checkpoint.Stateful`` do on every rank, and in one process."""

from __future__ import annotations

import collections
import logging
import time

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from tests.checkpoint import earlier_cases


class Rounded:
    """A reducer of a user's own: gradients are sent rounded, what was left out is sent with the next ones."""

    def __init__(self):
        self.residuals, self.sent, self.given = [], 0, None

    def reduce(self, gradients, names, op, engine):
        if not self.residuals:
            with tf.init_scope():
                begin = self.given or [np.zeros(g.shape, "float32") for g in gradients]
                self.residuals = [tf.Variable(value, trainable=False) for value in begin]
        whole = [g + r for g, r in zip(gradients, self.residuals, strict=True)]
        sent = [tf.round(w * 8) / 8 for w in whole]
        for residual, w, s in zip(self.residuals, whole, sent, strict=True):
            residual.assign(w - s)
        return engine.allreduce(sent, op, names)

    def state_dict(self):
        name = hvd.checkpoint.Entry("rounded", "common")
        return {"residuals": hvd.checkpoint.Entry(self.residuals, "mean"), "sent": self.sent, "name": name}

    def load_state_dict(self, state):
        assert state["name"] == "rounded"
        self.given, self.sent = state["residuals"], state["sent"]


def _small(optimizer, jit: bool = False) -> keras.Model:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", jit_compile=jit)
    return model


def _train(model: keras.Model, steps: range) -> None:
    for step in steps:
        rng = np.random.default_rng(100 * step + hvd.rank())
        x = rng.normal(size=(4, 3)).astype("float32")
        model.train_on_batch(x, x.sum(1, keepdims=True))


def rounded(built: bool = True):
    """A model with that reducer; ``built`` is whether its residuals are there already, of another step."""
    reducer = Rounded()
    model = _small(hvd.DistributedOptimizer(keras.optimizers.Adam(0.05), compression=reducer))
    if built:
        _train(model, range(50, 51))
    return model, reducer


def _values(variables) -> list:
    return [np.array(v) for v in variables]


def reducer(folder: str) -> dict:
    out = {}
    model, own = rounded(built=False)
    _train(model, range(3))
    own.sent = 3 + hvd.rank()
    hvd.checkpoint.save(model, folder + "/reducer", step=3)
    out["saved"] = _values(own.residuals)
    _train(model, range(3, 6))
    out["straight"] = _values([*model.weights, *own.residuals])
    for name, built in (("built", True), ("not built", False)):
        model, own = rounded(built)
        hvd.checkpoint.restore(model, folder + "/reducer")
        out[f"{name} sent"] = own.sent
        _train(model, range(3, 6))
        out[name] = _values([*model.weights, *own.residuals])
    return out


class Collector(keras.callbacks.Callback):
    """A callback whose attributes no checkpoint could hold as they are."""

    __module__ = "a_users_script"  # also where this file is imported by its path

    def __init__(self):
        super().__init__()
        self.recent, self.words, self.by_step = collections.deque(maxlen=3), set(), {}
        self.samples, self.total = 0, keras.Variable(0.0)

    def on_train_batch_end(self, batch, logs=None):
        self.recent.append(10 * hvd.rank() + batch)
        self.words.add(f"batch {batch}")
        self.by_step[batch, hvd.rank()] = np.float32(batch)
        self.samples += 4
        self.total.assign_add(1.0)

    def state_dict(self):
        entry = hvd.checkpoint.Entry
        return {
            "recent": list(self.recent),
            "words": entry(sorted(self.words), "common"),
            "by_step": [[list(key), value] for key, value in self.by_step.items()],
            "samples": entry(self.samples, "sum"),
            "total": entry(self.total, "mean"),
        }

    def load_state_dict(self, state):
        self.recent, self.words = collections.deque(state["recent"], maxlen=3), set(state["words"])
        self.by_step = {tuple(key): value for key, value in state["by_step"]}
        self.samples = state["samples"]


class Look(keras.callbacks.Callback):
    """What a collector holds before each step; its attributes are arguments, so they are not saved."""

    def __init__(self, collector: Collector, seen: list):
        super().__init__()
        self.collector, self.seen = collector, seen

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(held(self.collector))


def held(collector: Collector) -> dict:
    return {
        "recent": list(collector.recent),
        "words": sorted(collector.words),
        "by_step": {str(key): float(value) for key, value in collector.by_step.items()},
        "samples": collector.samples,
        "total": float(collector.total),
    }


def fit(folder: str, epochs: int) -> dict:
    """Goes on from what is there."""
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model, collector = _small(hvd.DistributedOptimizer("adam")), Collector()
    seen = []
    saving = hvd.callbacks.CheckpointCallback(folder + "/callback", every="epoch", background=False)
    data = hvd.data.shard(x, x.sum(1, keepdims=True), batch_size=4)
    model.fit(data, epochs=epochs, verbose=0, callbacks=[saving, collector, Look(collector, seen)])
    return {"before": seen[0], "after": held(collector)}


class Part(keras.Model):
    """A model in a model, with an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)
        self.dense.build((None, 2))
        self.own_optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))


class Several(keras.Model):
    """Optimizers in a list, in a dictionary, in a model in it, and one that ``compile`` does not know."""

    def __init__(self):
        super().__init__()
        make = lambda: hvd.DistributedOptimizer(keras.optimizers.Adam(0.01))
        self.listed, self.named, self.part, self.plain = [make()], {"second": make()}, Part(), make()
        self.blocks = [keras.layers.Dense(2) for _ in range(3)]
        for block in self.blocks:
            block.build((None, 2))

    def pairs(self) -> list:
        optimizers = [self.listed[0], self.named["second"], self.plain, self.part.own_optimizer]
        return list(zip(optimizers, [*self.blocks, self.part.dense], strict=True))

    def train_step(self, data):
        with tf.GradientTape(persistent=True) as tape:
            y = keras.utils.unpack_x_y_sample_weight(data)[0]
            for _, layer in self.pairs():
                y = layer(y)
            loss = tf.reduce_mean(y**2)
        for optimizer, layer in self.pairs():
            gradients = tape.gradient(loss, layer.trainable_weights)
            optimizer.apply_gradients(zip(gradients, layer.trainable_weights, strict=True))
        return {"loss": loss}


def optimizers(folder: str) -> dict:
    """The slots of each optimizer after a restore are those that were saved."""

    def build():
        keras.utils.set_random_seed(3)
        model = Several()
        model.compile()
        return model

    model = build()
    model.fit(np.ones((8, 2), "float32"), batch_size=4, verbose=0)
    hvd.checkpoint.save(model, folder + "/optimizers", step=2)
    before = [_values(optimizer.variables) for optimizer, _ in model.pairs()]
    model = build()
    hvd.checkpoint.restore(model, folder + "/optimizers")
    after = [_values(optimizer.variables) for optimizer, _ in model.pairs()]
    return {"saved": before, "restored": after}


class Heard(logging.Handler):
    """What hvdkit warns of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def closures(folder: str) -> dict:
    """What is said where an optimizer is held by a function alone, and then by the model."""
    out, heard = {}, Heard()
    logging.getLogger("hvdkit").addHandler(heard)
    for name, optimizer in (
        ("distributed", hvd.DistributedOptimizer(keras.optimizers.Adam(0.1, name="alone"))),
        ("of a tape", keras.optimizers.Adam(0.1)),
    ):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="lonely")

        def step(optimizer=optimizer, model=model):
            optimizer.apply([tf.ones_like(v) for v in model.trainable_variables], model.trainable_variables)

        step()
        for i in range(2):
            hvd.checkpoint.save(model, f"{folder}/{name}", step=i + 1)
        out[name] = list(heard.said)
        heard.said.clear()
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.my_optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.1))
    model.my_optimizer.apply([tf.ones_like(v) for v in model.trainable_variables], model.trainable_variables)
    hvd.checkpoint.save(model, f"{folder}/held", step=1)
    before, model.my_optimizer = model.my_optimizer, hvd.DistributedOptimizer(keras.optimizers.Adam(0.1))
    model.my_optimizer.apply([tf.ones_like(v) for v in model.trainable_variables], model.trainable_variables)
    hvd.checkpoint.save(model, f"{folder}/held", step=2)  # the one that was there before is alive, and trains nothing
    out["held"] = [before.name, *heard.said]
    logging.getLogger("hvdkit").removeHandler(heard)
    return out


class Failing:
    """A reducer, or with a callback's methods a callback, whose state rank 1 cannot say, or take."""

    says = takes = True

    def reduce(self, gradients, names, op, engine):
        return engine.allreduce(gradients, op, names)

    def state_dict(self):
        if not self.says and hvd.rank() == 1:
            raise ValueError("nothing to say")
        return {"n": 1}

    def load_state_dict(self, state):
        if not self.takes and hvd.rank() == 1:
            raise ValueError("not taken")


class FailingCallback(Failing, keras.callbacks.Callback):
    pass


def one_fails(folder: str) -> dict:
    """What each rank hears where the state of one cannot be said, or given back."""
    out, x = {}, np.ones((8, 3), "float32")

    def fit(callback, reducer):
        model = _small(hvd.DistributedOptimizer("sgd", compression=reducer))
        saving = hvd.callbacks.CheckpointCallback(folder + "/fails", every="epoch", background=False)
        try:
            model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[callback, saving])
        finally:
            saving._saver.close()

    hvd.checkpoint.save(_small(hvd.DistributedOptimizer("sgd", compression=Failing())), folder + "/fails", step=1)
    for name, failing in (("says", Failing()), ("takes", Failing())):
        setattr(failing, name, False)
        out[name] = _raised(lambda f=failing: fit(FailingCallback(), f))
    fit(FailingCallback(), Failing())
    callback = FailingCallback()
    callback.takes = False
    out["callback"] = _raised(lambda: fit(callback, Failing()))
    return out


def _raised(do) -> str:
    begin = time.monotonic()
    try:
        do()
    except Exception as error:
        return f"{type(error).__name__}: {error}" if time.monotonic() - begin < 60 else "after a long time"
    return "nothing"


def all_of(folder: str) -> dict:
    first, second = fit(folder, 1), fit(folder, 2)
    return {
        "callback": [first, second],
        "reducer": reducer(folder),
        "optimizers": optimizers(folder),
        "closures": closures(folder),
        "earlier": earlier_cases.earlier(),
        "one fails": one_fails(folder),
    }
