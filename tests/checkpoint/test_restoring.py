"""What a restore gives to what belongs to a model, and what it refuses: in one process."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.errors import UsageError
from hvdkit.utils.log import get_logger


class Counting:
    """A reducer that counts."""

    def __init__(self):
        self.given: list = []

    def reduce(self, gradients, names, op, engine):
        return engine.allreduce(gradients, op, names)

    def state_dict(self):
        return {"n": 1}

    def load_state_dict(self, state):
        self.given.append(state)


def _model(optimizer) -> keras.Model:
    hvd.init()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


@pytest.mark.parametrize("metadata", [{"reducers": 3}, {"reducers": ["fp16"]}, {"local_sgd": [{"steps": 4}]}])
def test_metadata_of_a_users_are_nobodys_state(tmp_path, metadata):
    hvd.init()
    hvd.checkpoint.save(_model(hvd.DistributedOptimizer("sgd")), tmp_path, step=1, metadata=metadata)
    reducer = Counting()
    restored = hvd.checkpoint.restore(_model(hvd.DistributedOptimizer("sgd", compression=reducer)), tmp_path)
    assert restored.metadata.items() >= metadata.items() and reducer.given == []
    if "local_sgd" not in metadata:
        return
    with pytest.raises(UsageError, match="does not fit this model"):  # its weights were not apart
        hvd.checkpoint.restore(_model(hvd.optim.LocalSGD("sgd")), tmp_path)


def test_an_outer_momentum_is_not_left_out_unsaid(tmp_path):
    hvd.init()
    local_sgd = lambda **outer: _model(hvd.optim.LocalSGD("sgd", 5, **outer))
    hvd.checkpoint.save(local_sgd(outer_momentum=0.9), tmp_path / "with", step=1)
    hvd.checkpoint.save(local_sgd(), tmp_path / "without", step=1)
    with pytest.raises(UsageError, match="was saved with an outer optimizer") as error:
        hvd.checkpoint.restore(local_sgd(), tmp_path / "with")
    assert "outer_lr" in str(error.value) and "outer_momentum" in str(error.value)
    with pytest.raises(UsageError, match="had another number"):
        hvd.checkpoint.restore(local_sgd(outer_momentum=0.9), tmp_path / "without")
    for name, outer in (("with", {"outer_lr": 0.5}), ("without", {})):
        assert hvd.checkpoint.restore(local_sgd(**outer), tmp_path / name).step == 1


@pytest.mark.parametrize("frozen", ["before", "after", "unfrozen"])
def test_the_optimizer_of_frozen_weights_is_not_missed(tmp_path, warnings, frozen):
    """Transfer learning: what trained a part before is alive still, and trains nothing of the new model."""
    hvd.init()
    base = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    before = keras.Sequential([keras.Input((3,)), base, keras.layers.Dense(1)])
    before.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.1)), "mse")
    x = np.ones((8, 3), "float32")
    before.fit(x, x[:, :1], verbose=0)
    base.trainable = frozen != "before"
    tuned = keras.Sequential([keras.Input((3,)), base, keras.layers.Dense(2)], name="fine_tuned")
    tuned.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    if frozen == "after":
        base.trainable = False
        tuned.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    tuned.fit(x, x[:, :2], verbose=0, callbacks=[hvd.callbacks.CheckpointCallback(tmp_path, every="epoch")])
    assert "contains no state of" not in warnings.text


@pytest.mark.parametrize("trainable", [True, False])
def test_the_optimizer_of_a_part_that_keras_does_not_track_is_missed_unless_it_is_frozen(tmp_path, warnings, trainable):
    class Held:
        """What a model holds and Keras does not look into."""

        def __init__(self):
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 2))

    hvd.init()
    model = _model(hvd.DistributedOptimizer("sgd"))
    model.held = Held()
    alone = hvd.DistributedOptimizer(keras.optimizers.Adam(0.1, name="alone"))
    alone.build(model.held.dense.trainable_variables)
    model.held.dense.trainable = trainable
    hvd.checkpoint.save(model, tmp_path, step=1)
    assert ("contains no state of the optimizer Adam (alone)" in warnings.text) == trainable


def test_what_an_earlier_version_saved_and_this_one_does_not_is_told_of_once(tmp_path, warnings):
    class Residuals:
        """A reducer whose ``variables`` an earlier hvdkit has saved."""

        def __init__(self):
            self.variables = [keras.Variable(np.zeros(2))]

        def reduce(self, gradients, names, op, engine):
            return engine.allreduce(gradients, op, names)

    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        """A schedule that an earlier hvdkit has asked for its position."""

        def __call__(self, step):
            return 0.1

        def position(self):
            return {}

        def go_on(self, position, step):
            pass

    class Saved(Residuals, Counting):
        pass

    hvd.init()
    for reducer in (Residuals(), Saved()):
        model = _model(hvd.DistributedOptimizer(keras.optimizers.SGD(Falling()), compression=reducer))
        for step in (1, 2):
            hvd.checkpoint.save(model, tmp_path / type(reducer).__name__, step=step)
    told = [record.getMessage() for record in warnings.records if "no longer" in record.getMessage()]
    of_reducer, of_schedule = told
    assert of_reducer.startswith("Residuals has `variables`, which is no longer saved")
    assert of_schedule.startswith("Falling has position() and go_on(), which is no longer saved")
    assert 'hvd.checkpoint.Entry(self.variables, "mean")' in of_reducer


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule with a state."""

    def __init__(self, state):
        self.state = state

    def __call__(self, step):
        return 0.1

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_errors_of_a_schedules_state_name_its_class(tmp_path):
    hvd.init()
    model = lambda state: _model(hvd.DistributedOptimizer(keras.optimizers.SGD(Halving(state))))
    for state, says in (({"x": {1, 2}}, "has a set in 'x'"), ([1], "must return a dictionary")):
        with pytest.raises(UsageError, match=rf"^Halving\.state_dict\(\) {says}"):
            hvd.checkpoint.save(model(state), tmp_path, step=1)
    hvd.checkpoint.save(model({"v": keras.Variable(np.zeros(2))}), tmp_path, step=1)
    with pytest.raises(UsageError, match=r"the variable in Halving\.state_dict\(\)\['v'\] is float64 \[3\]"):
        hvd.checkpoint.restore(model({"v": keras.Variable(np.zeros(3))}), tmp_path)


class Compressor:
    """Of Horovod's kind, with a state."""

    def __init__(self, n: int = 0):
        self.n = n

    def compress(self, tensor):
        return tensor, None

    def decompress(self, tensor, context):
        return tensor

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


class Static:
    """One that is a class, whose methods nobody could call."""

    @staticmethod
    def compress(tensor):
        return tensor, None

    @staticmethod
    def decompress(tensor, context):
        return tensor

    def state_dict(self):
        raise NotImplementedError

    load_state_dict = state_dict


def test_a_compressor_of_horovods_kind_keeps_its_state_too(tmp_path):
    hvd.init()
    hvd.checkpoint.save(_model(hvd.DistributedOptimizer("sgd", compression=Compressor(7))), tmp_path, step=1)
    compressor = Compressor()
    hvd.checkpoint.restore(_model(hvd.DistributedOptimizer("sgd", compression=compressor)), tmp_path)
    assert compressor.n == 7
    hvd.checkpoint.save(_model(hvd.DistributedOptimizer("sgd", compression=Static)), tmp_path, step=2)
