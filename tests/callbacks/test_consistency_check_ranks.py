"""The consistency check: every way of not communicating is an error on every rank, and no false alarm."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests import machine

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]


def _model(optimizer, **kwargs) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **kwargs)
    return model


def _fit(model, steps=6, epochs=1, **kwargs):
    x = np.random.default_rng(hvd.rank()).normal(size=(steps * 4, 3)).astype("float32")
    return model.fit(x, x.sum(1, keepdims=True), batch_size=4, epochs=epochs, shuffle=False, verbose=0, **kwargs)


class _Nudge(keras.callbacks.Callback):
    """Changes one weight on rank 1 before the third step."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2 and hvd.rank() == 1:
            kernel = self.model.get_layer("hidden").kernel
            kernel.assign(kernel + 1e-7)


class _TwoOptimizers(keras.Model):
    """A train_step of its own, two optimizers, no call(): what a GAN looks like."""

    def __init__(self, wrap_second: bool):
        super().__init__()
        self.first, self.second = (keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]) for _ in range(2))
        self.one = hvd.DistributedOptimizer(keras.optimizers.SGD(0.01))
        self.two = keras.optimizers.SGD(0.01)
        if wrap_second:
            self.two = hvd.DistributedOptimizer(self.two)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        for part, optimizer in ((self.first, self.one), (self.second, self.two)):
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((part(x) - y) ** 2)
            optimizer.apply(tape.gradient(loss, part.trainable_variables), part.trainable_variables)
        return {"loss": loss}


def _error(run) -> str:
    try:
        run()
    except hvd.errors.HvdkitError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def scenarios() -> dict:
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback
    sgd, distributed = keras.optimizers.SGD, hvd.DistributedOptimizer
    keras.utils.set_random_seed(1)
    out = {}
    out["plain"] = _error(lambda: _fit(_model(sgd(0.01))))
    out["plain, one step"] = _error(lambda: _fit(_model(sgd(0.01)), steps=1))
    out["good"] = _error(lambda: _fit(_model(distributed(sgd(0.01)))))
    out["good, accumulated"] = _error(
        lambda: _fit(_model(distributed(sgd(0.01, gradient_accumulation_steps=4))), epochs=3)
    )
    out["good, several steps per execution"] = _error(
        lambda: _fit(_model(distributed(sgd(0.01)), steps_per_execution=3), epochs=2)
    )
    model = _model(distributed(sgd(0.01)))
    model.optimizer._hvdkit.reduces = False  # as if something had taken the reduction out
    out["unwrapped"] = _error(lambda: _fit(model))
    out["drift"] = _error(lambda: _fit(_model(distributed(sgd(0.01))), callbacks=[_Nudge()]))
    every = hvd.callbacks.ConsistencyCheck(every=2)
    calls = []
    record = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs=None: calls.append(batch))
    out["drift, every 2 steps"] = _error(
        lambda: _fit(_model(distributed(sgd(0.01))), callbacks=[_Nudge(), record, every])
    )
    out["found before step"] = calls[-1]
    keras.utils.set_random_seed(hvd.rank())
    out["no broadcast"] = _error(lambda: _fit(_model(distributed(sgd(0.01)))))
    out["with broadcast"] = _error(lambda: _fit(_model(distributed(sgd(0.01))), callbacks=[broadcast(0)]))
    out["unequal steps"] = _error(lambda: _fit(_model(distributed(sgd(0.01))), steps=3 + hvd.rank()))
    units = 4 + hvd.rank()
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    other.compile(distributed(sgd(0.01)), "mse")
    out["other model"] = _error(lambda: _fit(other))
    keras.utils.set_random_seed(1)
    for name, wrap in (("gan", True), ("gan, one plain", False)):
        gan = _TwoOptimizers(wrap)
        gan.compile()
        out[name] = _error(lambda gan=gan: _fit(gan))

    def local():
        with hvd.local_training():
            if hvd.rank() == 0:
                _fit(_model(sgd(0.01)), steps=2)

    out["local"] = _error(local)
    keras.utils.set_random_seed(1)  # rank 0 alone has drawn numbers
    out |= found_by_review(distributed, sgd)
    keras.utils.set_random_seed(1)
    model = _model(distributed(keras.optimizers.Adam(1e-3)))
    _fit(model)
    _fit(model)  # a second fit of the same model
    model.optimizer.iterations.assign(0)
    out["again"] = _error(lambda: _fit(model))
    return out


class _Twice(keras.Model):
    """One optimizer, applied twice in a step, to other variables each time."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]) for _ in range(2))

    def call(self, x):
        return self.a(x) + self.b(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = keras.ops.mean((self(x) - y) ** 2)
        for part in (self.a, self.b):
            self.optimizer.apply(tape.gradient(loss, part.trainable_variables), part.trainable_variables)
        return {"loss": loss}


def found_by_review(distributed, sgd) -> dict:
    """What a reviewer broke: each was silent, a false alarm or a hang."""
    broadcast, rank, out = hvd.callbacks.BroadcastGlobalVariablesCallback, hvd.rank(), {}

    def frozen():
        base = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="frozen")])
        keras.utils.set_random_seed(rank)
        base.layers[0].kernel.assign(np.random.normal(size=(3, 4)))  # e.g. loaded on one rank only
        base.trainable = False
        keras.utils.set_random_seed(1)
        model = keras.Sequential([base, keras.layers.Dense(1, kernel_initializer="zeros")])
        model.compile(distributed(sgd(0.0)), "mse")
        _fit(model)

    out["frozen"] = _error(frozen)

    def resumed():
        keras.utils.set_random_seed(1)
        if rank == 0:  # another layer before: other counters in the names of slots
            keras.layers.Dense(1).build((1, 1))
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(distributed(keras.optimizers.Adam(1e-3)), "mse")
        if rank == 0:
            model.optimizer.build(model.trainable_variables)
            model.optimizer.iterations.assign(5)
        _fit(model, callbacks=[broadcast(0)])
        assert int(model.optimizer.iterations) == 11

    out["resumed on rank 0"] = _error(resumed)

    def adapted(layer, data, callbacks):
        keras.utils.set_random_seed(1)
        layer.adapt(data)
        normal = isinstance(layer, keras.layers.Normalization)
        tail = [] if normal else [keras.layers.Embedding(9, 2), keras.layers.Flatten()]
        model = keras.Sequential([layer, *tail, keras.layers.Dense(1)])
        model.compile(distributed(sgd(0.01)), "mse")
        model.fit(data[:2], np.ones((2, 1)), verbose=0, callbacks=callbacks)
        return model.layers[0]

    numbers = np.random.default_rng(rank).normal(size=(8, 3)) + rank
    words = np.array([7, 7, 3] if rank else [3, 3, 7])
    out["adapted"] = _error(lambda: adapted(keras.layers.Normalization(), numbers, []))
    out["adapted, broadcast"] = _error(lambda: adapted(keras.layers.Normalization(), numbers, [broadcast(0)]))
    out["vocabulary"] = _error(lambda: adapted(keras.layers.IntegerLookup(), words, [broadcast(0)]))
    keras.utils.set_random_seed(1)
    out["initial epoch"] = _error(lambda: _fit(_model(distributed(sgd(0.01))), epochs=4, initial_epoch=rank))

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = rank == 1

    keras.utils.set_random_seed(1)
    out["one stops"] = _error(lambda: _fit(_model(distributed(sgd(0.01))), epochs=3, callbacks=[Stop()]))
    keras.utils.set_random_seed(1)
    model = _model(sgd(0.01))
    own = keras.callbacks.CallbackList([], model=model, epochs=1, steps=6, verbose=0)
    out["own list"] = _error(lambda: _fit(model, callbacks=own))
    if hasattr(keras.optimizers, "MultiOptimizer"):  # of Keras 3.15
        keras.utils.set_random_seed(1)
        several = keras.optimizers.OptimizerMap(distributed(sgd(0.01)), {".*hidden.*": distributed(sgd(0.02))})
        out["multi"] = _error(lambda: _fit(_model(keras.optimizers.MultiOptimizer(several))))
    keras.utils.set_random_seed(1)
    twice = _Twice()
    twice.compile(distributed(sgd(0.01)))
    twice.optimizer.build(twice.trainable_variables)
    out["twice"] = _error(lambda: _fit(twice))
    return out


@pytest.fixture(scope="module")
def found():
    return run_ranks(2, scenarios).values


GOOD = ["good", "good, accumulated", "good, several steps per execution", "with broadcast", "gan", "local", "again"]
GOOD += ["resumed on rank 0", "adapted, broadcast", "multi", "twice"]


@pytest.mark.parametrize("name", GOOD)
def test_no_false_alarm(found, name):
    if name == "multi":
        machine.needs_multi_optimizer()
    assert [rank[name] for rank in found] == ["no error"] * 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain", ["SGD (", "made 1 steps and is not distributed", "2 ranks train different models",
                   "hvd.DistributedOptimizer", "hvd.local_training"]),
        ("plain, one step", ["is not distributed"]),
        ("unwrapped", ["made 1 steps, but reduced its gradients only 0 times"]),
        ("drift", ["not equal on all ranks", "hidden/kernel (rank 1)", "1 of 4", "BroadcastGlobalVariables"]),
        ("drift, every 2 steps", ["hidden/kernel (rank 1)"]),
        ("no broadcast", ["not equal on all ranks", "BroadcastGlobalVariablesCallback(0)"]),
        ("unequal steps", ["how many steps", "rank 0: steps per epoch 3", "rank 1: steps per epoch 4"]),
        ("other model", ["do not agree on their gradients", "[3, 4]", "[3, 5]"]),
        ("frozen", ["not equal on all ranks", "frozen/kernel (rank 1)"]),
        ("adapted", ["what their preprocessing layers were adapted to", "Normalization", "same data on every rank"]),
        ("vocabulary", ["what their preprocessing layers were adapted to", "IntegerLookup"]),
        ("initial epoch", ["first epoch", "rank 0", "rank 1"]),
        ("one stops", ["what comes next: rank 0: epoch 2; rank 1: the end of training", "EarlyStopping"]),
        ("own list", ["is not distributed"]),
        ("gan, one plain", ["is not distributed"]),
    ],
)  # fmt: skip
def test_caught_on_every_rank(found, name, words):
    for rank, out in enumerate(found):
        assert out[name].startswith(f"CommunicationError: [rank {rank}]")
        for word in words:
            assert word in out[name]


def test_every_steps_finds_it_early(found):
    assert found[0]["found before step"] == 3  # nudged before step 2, checked every 2 steps after the first
