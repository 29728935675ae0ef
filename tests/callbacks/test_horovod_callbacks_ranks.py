"""Horovod's callbacks: its arguments, what stays local on two ranks, and a best model whose file is always whole."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.checkpoint.storage.writer import CheckpointWriteError
from hvdkit.keras_internals.model_contents import backend_variable
from hvdkit.testing import run_ranks
from tests.callbacks.linear import Rates, linear, xy
from tests.machine import world

callbacks = hvd.callbacks


@pytest.fixture(autouse=True)
def alone():
    hvd.init()


# ---------------------------------------------------------------------------------------------- names and arguments


@pytest.mark.parametrize(
    ("name", "arguments"),
    {
        "BroadcastGlobalVariablesCallback": {"root_rank": 0, "device": "", "local_variables": None},
        "MetricAverageCallback": {"device": ""},
        "LearningRateScheduleCallback": {
            "initial_lr": inspect.Parameter.empty,
            "multiplier": inspect.Parameter.empty,
            "start_epoch": 0,
            "end_epoch": None,
            "staircase": True,
            "momentum_correction": True,
            "steps_per_epoch": None,
        },
        "LearningRateWarmupCallback": {
            "initial_lr": inspect.Parameter.empty,
            "warmup_epochs": 5,
            "momentum_correction": True,
            "steps_per_epoch": None,
            "verbose": 0,
        },
        "BestModelCheckpoint": {
            "monitor": "val_loss",
            "verbose": 0,
            "save_weights_only": False,
            "mode": "auto",
            "save_freq": "epoch",
        },
    }.items(),
)
def test_arguments_are_horovods(name, arguments):
    parameters = inspect.signature(getattr(callbacks, name)).parameters.values()
    positional = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == list(arguments.items())


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("wrong", ["kernel", ["kernel"], 3, [np.ones(3)], [keras.Variable([1.0]), None]])
def test_a_local_variable_that_is_none(wrong):
    with pytest.raises(hvd.errors.UsageError, match=r"local variable.*\n.*layer\.weights"):
        callbacks.BroadcastGlobalVariablesCallback(0, local_variables=wrong)


# ---------------------------------------------------------------------------------------------------- best checkpoint


def _fit(model, callback, epochs=1):
    x, y = xy(6)
    return model.fit(x, y, validation_data=(x, y), epochs=epochs, verbose=0, callbacks=[callback])


@pytest.mark.parametrize(
    ("weights_only", "path", "said"),
    [
        (False, None, "is not set"),
        (False, "best.weights", r"ends in \.keras"),
        (True, "best.keras", r"ends in \.weights\.h5"),
        (False, "gs://bucket/best.keras", "local file system"),
    ],
)
def test_a_checkpoint_path_that_cannot_be(weights_only, path, said):
    best = callbacks.BestModelCheckpoint(save_weights_only=weights_only, filepath=path)
    with pytest.raises(hvd.errors.UsageError, match=rf"(?s){said}"):
        _fit(linear("sgd"), best)


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_is_whole_or_absent(tmp_path, monkeypatch, weights_only):
    path = tmp_path / "new" / ("best.weights.h5" if weights_only else "best.keras")
    model = linear(keras.optimizers.SGD(0.01))
    best = callbacks.BestModelCheckpoint("val_loss", 0, weights_only)
    best.filepath = path
    _fit(model, best)
    saved = [np.asarray(w) for w in model.get_weights()]
    whole = path.read_bytes()

    method = "save_weights" if weights_only else "save"

    def breaks(target, **_):
        Path(target).write_bytes(b"half")
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(model, method, breaks)
        with pytest.raises(CheckpointWriteError, match="the disk is full"):
            _fit(model, best)
    assert path.read_bytes() == whole and list(path.parent.iterdir()) == [path]

    worse = linear(keras.optimizers.SGD(0.0))
    worse.set_weights([w + 9 for w in saved])
    _fit(worse, best)
    assert path.read_bytes() == whole, "only a better model replaces it"
    if weights_only:
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    for a, b in zip(model.get_weights(), saved, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------------------------- on two ranks


class FirstStep(keras.callbacks.Callback):
    """Each variable's first number when the first step begins."""

    def __init__(self, variables):
        super().__init__()
        self.variables = variables

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.seen = [float(np.ravel(v.numpy())[0]) for v in self.variables]


def _broadcast(rank: int) -> dict:
    """Variables that hold their rank + 1; the first kernel and the last bias stay local, by identity: the names
    repeat."""
    inner = [keras.layers.Dense(3, name="same") for _ in range(3)]
    model = keras.Sequential([keras.Input((3,)), *(keras.Sequential([layer]) for layer in inner)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3)), "mse")
    model.optimizer.build(model.trainable_variables)
    for variable in [*model.weights, *model.optimizer.variables[2:]]:
        variable.assign(np.full(variable.shape, rank + 1.0))
    kernel, bias = inner[0].kernel, inner[2].bias
    broadcast = callbacks.BroadcastGlobalVariablesCallback(1, "/CPU:0", backend_variable(kernel))
    broadcast.register_local_var(bias)
    slots = model.optimizer.variables[2:]  # pairs of m and v, in the order of the weights
    spy = FirstStep([*model.weights, *slots])
    x, _ = xy(8, seed=rank)
    model.fit(x, x, batch_size=4, verbose=0, callbacks=[broadcast, spy])  # the proof is part of it
    names = [v.path for v in (*model.weights, *slots)]
    return {"seen": spy.seen, "names": names, "local": [float(kernel[0, 0]), float(bias[0])]}


def _warmup() -> dict:
    keras.utils.set_random_seed(1)
    model = linear(hvd.DistributedOptimizer(keras.optimizers.SGD(0.5, momentum=0.9)))
    rates = Rates()
    warmup = callbacks.LearningRateWarmupCallback(0.02, warmup_epochs=2, verbose=1)
    average = callbacks.MetricAverageCallback("/CPU:0")
    x, y = xy(12, seed=hvd.rank())
    history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[warmup, average, rates]).history
    return {"rates": rates.seen, "history": history, "digest": hvd.assert_equal_weights(model)}


def _best(folder: str) -> dict:
    keras.utils.set_random_seed(1)
    model = linear(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)))
    best = callbacks.BestModelCheckpoint("loss", verbose=1)
    best.filepath = f"{folder}/rank{hvd.rank()}.keras"
    x, y = xy(12, seed=hvd.rank())
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[callbacks.MetricAverageCallback(), best]).history
    hvd.barrier()
    return {"best": float(best.best), "history": history["loss"], "kernel": np.asarray(model.get_weights()[0])}


def _devices() -> list:
    """What a device that does not exist leads to: an error before any exchange, on every rank."""
    said = []
    for make in (callbacks.BroadcastGlobalVariablesCallback, callbacks.MetricAverageCallback):
        callback = make(device="no such device")
        callback.set_model(linear("sgd"))
        try:
            callback.on_train_begin()
            callback.on_epoch_end(0, {"loss": 1.0})
        except ValueError as error:
            said.append(str(error))
    return said


def on_two_ranks(folder: str) -> dict:
    return {"broadcast": _broadcast(hvd.rank()), "warmup": _warmup(), "best": _best(folder), "devices": _devices()}


@pytest.fixture(scope="module", params=["gloo", "mpi"])
def two_ranks(request, tmp_path_factory, forked_ranks):
    folder = tmp_path_factory.mktemp("best")
    ranks = run_ranks(2, on_two_ranks, str(folder), **world(request.param))
    return SimpleNamespace(folder=folder, ranks=ranks)


@pytest.mark.dist
def test_local_variables_and_their_slots_stay_local(two_ranks):
    for rank, value in enumerate(two_ranks.ranks.values):
        weights, slots = value["broadcast"]["seen"][:6], value["broadcast"]["seen"][6:]
        mine, roots = rank + 1.0, 2.0
        expected = [mine, roots, roots, roots, roots, mine]
        assert weights == expected, value["broadcast"]["names"]
        assert slots == [slot for own in expected for slot in (own, own)], value["broadcast"]["names"]


@pytest.mark.dist
def test_warmup_on_two_ranks(two_ranks):
    first, second = (value["warmup"] for value in two_ranks.ranks.values)
    assert first == second
    expected = [0.02 / 2 * ((step + 1) / 6 + 1) for step in range(6)] + [0.02] * 3
    np.testing.assert_allclose(first["rates"], expected, rtol=1e-6)
    np.testing.assert_allclose(first["history"]["lr"], [expected[2], 0.02, 0.02], rtol=1e-6)
    assert two_ranks.ranks.output.count("Epoch 2: finished gradual learning rate warmup to 0.02.") == 1


@pytest.mark.dist
def test_only_rank_0_writes_the_best_model(two_ranks):
    first, second = (value["best"] for value in two_ranks.ranks.values)
    assert first["best"] == second["best"] == min(first["history"])
    assert [path.name for path in two_ranks.folder.iterdir()] == ["rank0.keras"]
    saved = keras.models.load_model(two_ranks.folder / "rank0.keras")
    np.testing.assert_array_equal(saved.get_weights()[0], first["kernel"])
    assert two_ranks.ranks.output.count("Epoch 2: finished saving model") == 1
    assert two_ranks.ranks.output.count("Epoch 2: loss improved") == 1


@pytest.mark.dist
def test_the_exchange_is_on_the_device_that_was_asked_for(two_ranks):
    for value in two_ranks.ranks.values:
        assert len(value["devices"]) == 2
        assert all("no such device" in said for said in value["devices"])
