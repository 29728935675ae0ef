"""Broadcast before the first step, metrics exactly averaged, progress from rank 0 only."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(4), keras.layers.Dense(1)

    def call(self, x):
        return self.out(self.hidden(x))


def _sequential(*layers):
    return keras.Sequential([*layers, keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(1)])


MODELS = {
    "built": lambda: _sequential(keras.Input((3,))),
    "without shapes": _sequential,
    "subclassed": Subclassed,
}


class _Spy(keras.callbacks.Callback):
    """What the weights were when the first step began."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            state = [*self.model.weights, *self.model.optimizer.variables]
            self.seen = {"n": len(state), "weights": [np.asarray(v.numpy()) for v in state]}


def _xy(n=16):
    x = np.random.default_rng(hvd.rank()).normal(size=(n, 3)).astype("float32")
    return x, x.sum(1, keepdims=True)


def broadcasts() -> dict:
    out = {}
    for name, make in MODELS.items():
        keras.utils.set_random_seed(hvd.rank())
        model = make()
        adam = keras.optimizers.Adam(0.01 * (1 + hvd.rank()))
        model.compile(hvd.DistributedOptimizer(adam), "mse")
        if hvd.rank() == 1 and name == "built":  # it has trained before: slots, iterations
            with hvd.local_training():
                model.optimizer.build(model.trainable_variables)
                for i, variable in enumerate(model.optimizer.variables):
                    variable.assign(keras.ops.full(variable.shape, i + 1, dtype=variable.dtype))
        spy, root = _Spy(), 1 if name == "built" else 0
        x, y = _xy()
        dataset = __import__("tensorflow").data.Dataset.from_tensor_slices((x, y)).batch(4)
        model.fit(dataset, verbose=0, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(root), spy])
        out[name] = {"seen": spy.seen, "after": hvd.assert_equal_weights(model)}
    return out


def metrics() -> dict:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), "mse", metrics=["mae"])
    x, y = _xy(12)
    n, n_val = (12, 5) if hvd.rank() == 0 else (9, 2)  # as many steps, other numbers of samples
    val = (x[:n_val], y[:n_val])
    average = hvd.callbacks.MetricAverageCallback()
    history = model.fit(x[:n], y[:n], batch_size=4, validation_data=val, verbose=0, callbacks=[average]).history
    own = model.evaluate(x[:n], y[:n], verbose=0, return_dict=True)
    own_val = model.evaluate(*val, verbose=0, return_dict=True)

    class Extra(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if hvd.rank() == 1:
                logs["f1"] = 0.5

    try:
        model.fit(x[:8], y[:8], batch_size=4, verbose=0, callbacks=[Extra(), average])
        error = "no error"
    except hvd.errors.CommunicationError as raised:
        error = str(raised)
    return {"history": history, "own": own, "own_val": own_val, "n": n, "n_val": n_val, "error": error}


def progress() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    keras.utils.set_random_seed(1)
    for word, callbacks in (("defaults", hvd.callbacks.defaults()), ("nothing said", None)):
        print(f"SAYS{hvd.rank()} {word}", flush=True)
        broadcast = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)] if callbacks is None else []
        model.fit(*_xy(), epochs=2, batch_size=4, callbacks=callbacks or broadcast)
        model.evaluate(*_xy())
        model.predict(_xy()[0])


@pytest.fixture(scope="module")
def broadcast_ranks():
    return run_ranks(2, broadcasts).values


@pytest.mark.parametrize("name", MODELS)
def test_all_ranks_start_from_the_root(broadcast_ranks, name):
    first, second = (rank[name]["seen"] for rank in broadcast_ranks)
    assert first["n"] == second["n"] > 8, "weights, iterations, learning rate and slots, before the first step"
    for a, b in zip(first["weights"], second["weights"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_slots_of_a_root_that_trained_before(broadcast_ranks):
    for rank in broadcast_ranks:
        seen = rank["built"]["seen"]["weights"]
        slots = seen[-(2 + 2 * 6) :]  # Adam: iterations, learning rate, m and v of 6 trainable variables
        for i, slot in enumerate(slots):
            assert (np.asarray(slot) == i + 1).all()


def unbuildable() -> dict:
    class NeedsData(Subclassed):
        def call(self, x):
            import tensorflow as tf

            if not tf.executing_eagerly() and not self.hidden.built:
                raise RuntimeError("call me with data")
            return super().call(x)

    keras.utils.set_random_seed(hvd.rank())
    model = NeedsData()
    model.compile(hvd.DistributedOptimizer("adam"), "mse", run_eagerly=True)
    x, y = _xy()
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
    slots = [np.asarray(v.numpy()) for v in model.optimizer.variables]
    return {"digest": hvd.assert_equal_weights(model), "slots": slots}


def test_a_model_that_cannot_be_built_early_is_said_and_sent_after_its_first_step():
    done = run_ranks(2, unbuildable, environ={"HVDKIT_LOG_LEVEL": "DEBUG"})
    assert done.output.count("could not be built before its first step") == 1
    assert "call me with data" in done.output and "model(x[:1])" in done.output
    first, second = done.values
    assert first["digest"] == second["digest"]
    for a, b in zip(first["slots"], second["slots"], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def metric_ranks():
    return run_ranks(2, metrics).values


@pytest.mark.parametrize("name", ["loss", "mae"])
def test_metrics_are_weighted_by_samples(metric_ranks, name):
    for key, own, count in ((name, "own", "n"), (f"val_{name}", "own_val", "n_val")):
        total = sum(rank[count] for rank in metric_ranks)
        want = sum(rank[own][name] * rank[count] for rank in metric_ranks) / total
        for rank in metric_ranks:
            np.testing.assert_allclose(rank["history"][key], [want], rtol=1e-5)
    assert metric_ranks[0]["history"] == metric_ranks[1]["history"], "to the last bit"


def test_a_metric_on_one_rank_only(metric_ranks):
    for rank in metric_ranks:
        assert "'f1' is missing on rank 0" in rank["error"] and "compile the same metrics" in rank["error"]


def test_only_rank_0_speaks():
    output = run_ranks(2, progress).output
    # Everything the ranks print passes through one pipe; these words come from Keras' progress only.
    assert output.count("Epoch 1/2") == output.count("Epoch 2/2") == 2, output
    assert output.count("ms/step") + output.count("s/step") >= 4 and "━" not in output
