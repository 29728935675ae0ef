"""What objects get back of what they have saved: in one process, with the parts of several ranks."""

from __future__ import annotations

import collections

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.checkpoint.callback_state import collect_states, restore_states
from hvdkit.checkpoint.object_state import SavedObjects, encode_entries, pack
from hvdkit.errors import UsageError
from hvdkit.utils.stateful import entries_of

Entry = hvd.checkpoint.Entry


class Plain:
    """What it is given is its state, as a program would keep it."""

    def __init__(self, state: dict | None = None):
        self.state = state or {}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def saved(*states: dict, rank: int = 0, size: int = 1) -> SavedObjects:
    """What one rank of ``size`` reads of what ranks with these states have saved."""
    parts = []
    for number, state in enumerate(states):
        arrays: list = []
        encoded = encode_entries("Plain", entries_of(Plain(state)), arrays, number)
        parts.append(pack("kept", [{"class": "a_script.Plain", **encoded}], arrays))
    return SavedObjects("kept", parts, rank, size)


def restored(*states: dict, rank: int = 0, size: int = 1) -> dict:
    thing = Plain()
    saved(*states, rank=rank, size=size).give([("a_script.Plain", thing)])
    return thing.state


@pytest.mark.parametrize("kind", ["common", "per_rank", "mean", "sum"])
def test_what_is_given_again_is_not_what_the_object_has_changed_meanwhile(kind):
    state = {"list": Entry([1.0, 2.0], kind), "array": Entry(np.zeros(2), kind), "in": Entry({"a": [np.ones(2)]}, kind)}
    for states, size in (([state], 1), ([state, state], 1)):  # as many ranks, and another number
        objects = saved(*states, rank=0, size=size)
        first, second = Plain(), Plain()
        objects.give([("a_script.Plain", first)])
        wanted = (list(first.state["list"]), first.state["array"].tolist(), first.state["in"]["a"][0].tolist())
        first.state["list"].append(9.0)
        first.state["array"] += 5
        first.state["in"]["a"][0] += 5
        objects.give([("a_script.Plain", second)])
        got = second.state["list"], second.state["array"].tolist(), second.state["in"]["a"][0].tolist()
        assert got == wanted


def test_an_attribute_is_not_shared_with_the_checkpoint():
    class Counts:
        pass

    arrays = [np.zeros(2)]
    parts = [pack("kept", [{"class": "c", "attributes": {"a": {"array": 0}}}], arrays)]
    objects, first, second = SavedObjects("kept", parts, 0, 1), Counts(), Counts()
    objects.give([("c", first)])
    first.a += 5
    objects.give([("c", second)])
    assert second.a.tolist() == [0.0, 0.0]


def test_a_callback_is_the_same_however_its_value_was_saved(tmp_path):
    """Given before training, the epoch and the step that it resumes with."""

    class Epochs(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.epochs = []

        def on_epoch_begin(self, epoch, logs=None):
            self.epochs.append(epoch)

        def state_dict(self):
            return {"epochs": Entry(list(self.epochs), "common")}

        def load_state_dict(self, state):
            self.epochs = state["epochs"]

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.stops = epoch == 1

        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2 and self.stops:
                raise KeyboardInterrupt

    hvd.init()
    x = np.ones((16, 2), "float32")
    for last in ([Stop()], []):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(hvd.DistributedOptimizer("sgd"), "mse")
        epochs, saving = Epochs(), hvd.callbacks.CheckpointCallback(tmp_path, every=1, background=False)
        try:
            data = hvd.data.shard(x, x[:, :1], batch_size=4)
            model.fit(data, epochs=3, verbose=0, callbacks=[epochs, saving, *last])
        except KeyboardInterrupt:
            saving._saver.close()
    assert epochs.epochs == [0, 1, 2]


SUMS = {
    "a key of one rank": ([{"a": 1}, {"a": 1, "b": 5}], {"a": 2, "b": 5}),
    "another's": ([{"a": 1, "b": [5]}, {}], {"a": 1, "b": [5]}),
    "a Counter": ([collections.Counter(x=2), collections.Counter(y=1)], {"x": 2, "y": 1}),
    "large": ([np.int64(2**53 + 1), np.int64(2)], 2**53 + 3),
    "larger": ([2**70 + 1, 2**70], 2**71 + 1),
    "a whole one and a fraction": ([1, 2.5], 3.5),
    "a list": ([[1, 2], [3, 4]], [4, 6]),
    "nothing": ([None, None], None),
    "empty": ([[], []], []),
}


@pytest.mark.parametrize("what", SUMS)
def test_a_sum_loses_nothing(what):
    values, total = SUMS[what]
    for states in (values, values[::-1]):
        assert restored(*({"n": Entry(value, "sum")} for value in states))["n"] == total


def test_a_sum_is_zero_on_all_ranks_but_the_first():
    states = [{"n": Entry({"a": 1}, "sum")}, {"n": Entry({"b": [2.5, 2**70]}, "sum")}]
    assert restored(*states, rank=1, size=3)["n"] == {"a": 0, "b": [0.0, 0]}


NOT_ALIKE = {
    "lists of other lengths": ("sum", [1.0, 2.0], [1.0]),
    "a list of the mean": ("mean", [1.0, 2.0], [1.0]),
    "keys of a mean": ("mean", {"a": 1.0}, {"a": 1.0, "b": 5.0}),
    "nothing on one": ("mean", 1.0, None),
    "nothing added": ("sum", 1, None),
    "text": ("sum", "x", "y"),
    "a dictionary and a number": ("sum", {"a": 1}, 3),
    "a list and a dictionary": ("sum", [1], {"a": 1}),
    "other shapes": ("mean", np.zeros(2), np.zeros(3)),
    "shapes that would be made one": ("sum", np.zeros(1), np.zeros(3)),
    "inside": ("sum", {"a": [1]}, {"a": [1, 2]}),
}


@pytest.mark.parametrize("what", NOT_ALIKE)
def test_what_has_no_sum_or_mean_is_refused_by_its_name(what):
    kind, *values = NOT_ALIKE[what]
    for states in (values, values[::-1]):
        with pytest.raises(UsageError, match=rf"no {kind} of 'n' of a_script\.Plain") as error:
            restored(*({"n": Entry(value, kind)} for value in states))
        assert "resume on as many ranks as saved it" in str(error.value)
        assert restored(*({"n": Entry(value, kind)} for value in states), size=2).keys() == {"n"}


def test_a_mean_that_only_one_rank_has_is_refused_and_a_sum_is_its_value():
    with pytest.raises(UsageError, match=r"no mean of 'n' of a_script\.Plain: only some"):
        restored({"n": Entry(1.0, "mean")}, {})
    assert restored({}, {"n": Entry(2, "sum")})["n"] == 2


LARGE = {
    "words": [str(i) for i in range(10_001)],
    "a dictionary": {str(i): i for i in range(10_001)},
    "a seed of 64 bits": 2**64 - 1,
    "a generator of NumPy": np.random.PCG64(1).state,
    "seeds": [2**63 + i for i in range(200)],
    "large seeds": [-(2**70) + i for i in range(200)],
    "of both signs": [2**63, *range(-200, 0)],
    "yes and no": [True, False] * 100,
}


@pytest.mark.parametrize("what", LARGE)
def test_state_may_be_large(what):
    got = restored({"v": LARGE[what]})["v"]
    assert got == LARGE[what] and repr(got) == repr(LARGE[what])


def test_a_long_attribute_of_a_callback_is_data_and_no_state():
    callback, other = keras.callbacks.EarlyStopping("loss"), keras.callbacks.EarlyStopping("loss")
    callback.wait, callback.data = 3, [[str(i) for i in range(10_001)]]
    restore_states([other], SavedObjects("callbacks", [collect_states([callback])], rank=0, size=1))
    assert other.wait == 3 and not hasattr(other, "data")


def test_a_number_that_json_cannot_hold_is_refused_by_its_size():
    with pytest.raises(UsageError, match="a whole number of 100001 bits in 'v'"):
        restored({"v": 2**100_000})
