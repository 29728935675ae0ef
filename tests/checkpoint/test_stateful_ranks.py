"""What says itself what it keeps comes back: on as many ranks to the last bit, on others by its kind."""

from __future__ import annotations

import functools
import tempfile

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.checkpoint.object_state import SavedObjects, encode_entries, pack
from hvdkit.errors import UsageError
from hvdkit.testing import run_ranks
from hvdkit.utils.stateful import entries_of
from tests.checkpoint import earlier_cases
from tests.checkpoint import stateful_cases as cases
from tests.machine import world

pytestmark = pytest.mark.dist


@functools.cache
def _ranks() -> tuple[str, list[dict]]:
    folder = tempfile.mkdtemp()
    return folder, run_ranks(2, cases.all_of, folder, **world("mpi"), timeout=500).values


def _same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["built", "not built"])
def test_a_users_reducer_goes_on_with_each_ranks_residuals(name):
    first, second = (rank["reducer"] for rank in _ranks()[1])
    assert not _same(first["saved"], second["saved"]) and any(r.any() for r in first["saved"])
    for rank, mine in enumerate((first, second)):
        assert _same(mine["straight"], mine[name])
        assert mine[f"{name} sent"] == 3 + rank


def test_on_one_rank_the_reducer_has_the_mean_of_the_residuals():
    folder, ranks = _ranks()
    hvd.init()
    model, reducer = cases.rounded()
    hvd.checkpoint.restore(model, folder + "/reducer")
    for residual, *theirs in zip(reducer.given, *(rank["reducer"]["saved"] for rank in ranks), strict=True):
        np.testing.assert_allclose(residual, np.mean(theirs, axis=0), rtol=1e-6, atol=1e-8)
    assert reducer.sent == 3  # each rank's own: rank 0's


def test_a_users_callback_comes_back():
    for rank, (first, second) in enumerate(r["callback"] for r in _ranks()[1]):
        assert first["after"]["recent"] == [10 * rank + i for i in (1, 2, 3)]
        assert second["before"] == first["after"]
        assert second["after"]["samples"] == 32 and second["after"]["total"] == 8.0


def test_on_one_rank_a_callback_has_what_counts_of_all():
    hvd.init()
    with pytest.raises(ZeroDivisionError):
        _stopped_at_once(_ranks()[0])


def _stopped_at_once(folder: str) -> None:
    class Check(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen = cases.held(collector)
            assert seen["samples"] == 64 and seen["total"] == 8.0  # the sum of two ranks, and their mean
            assert seen["recent"] == [1, 2, 3] and seen["words"] == [f"batch {i}" for i in range(4)]
            raise ZeroDivisionError

    collector, model = cases.Collector(), cases._small(hvd.DistributedOptimizer("adam"))
    saving = hvd.callbacks.CheckpointCallback(folder + "/callback", every="epoch")
    x = np.ones((32, 3), "float32")
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[saving, collector, Check()])


def test_optimizers_are_found_in_lists_dictionaries_and_models():
    for mine in _ranks()[1]:
        saved, restored = mine["optimizers"]["saved"], mine["optimizers"]["restored"]
        assert len(saved) == 4 and all(any(v.any() for v in variables[2:]) for variables in saved)
        assert all(_same(a, b) for a, b in zip(saved, restored, strict=True))


def test_an_optimizer_that_nobody_finds_is_told_of_once():
    first, second = (mine["closures"] for mine in _ranks()[1])
    ((said,), (tape,)) = first["distributed"], first["of a tape"]
    assert said.startswith("The checkpoint contains no state of the optimizer Adam (alone) that trains lonely, because")
    assert "an optimizer that trains lonely" in tape and "model.my_optimizer = optimizer" in tape
    assert len(first["held"]) == len(second["held"]) == 1 and not second["distributed"]


def test_what_an_earlier_version_wrote_is_read():
    for rank, mine in enumerate(r["earlier"] for r in _ranks()[1]):
        stored = earlier_cases.stored("synchronous", rank)
        got = {"/".join(name.split("/")[:2]): value for name, value in mine["tensors"].items()}
        assert {kind.partition("/")[0] for kind in got} == {"weights", "optimizer", "own", "mean", "sum"}
        assert all(value.tobytes() == stored[name].tobytes() for name, value in got.items())
        assert mine["epoch of the rate"] == 1 / 5 and mine["wait"] == 0
        local = sorted(earlier_cases.stored("local_sgd", rank).items())
        assert _same(mine["local"], [value for name, value in local if name.startswith("apart/")])
        assert _same([*mine["slots"], *mine["beside"]], [value for name, value in local if name.startswith("mean/")])


def test_what_an_earlier_version_wrote_is_read_on_one_rank():
    hvd.init()
    model = earlier_cases.local_sgd()
    hvd.checkpoint.restore(model, earlier_cases.EARLIER / "local_sgd")
    both = [earlier_cases.stored("local_sgd", rank) for rank in range(2)]
    mean = np.mean([stored["apart/00000"] for stored in both], axis=0)
    np.testing.assert_allclose(model.weights[0].numpy(), mean, rtol=1e-6)
    assert int(model.optimizer._hvdkit.averaging.steps_since_sync.numpy()) == 3


def test_a_save_walks_the_model_once(tmp_path, monkeypatch):
    from hvdkit.keras_internals import model_contents, training_state

    walks = []

    def counted(model, walk=model_contents.reachable_objects):
        walks.append(model)
        return walk(model)

    hvd.init()
    model, _ = cases.rounded()
    for module in (model_contents, training_state):
        monkeypatch.setattr(module, "reachable_objects", counted)
    hvd.checkpoint.save(model, tmp_path, step=1)
    assert len(walks) == 1


def test_where_one_rank_cannot_say_or_take_its_state_all_hear_of_it():
    first, second = (mine["one fails"] for mine in _ranks()[1])
    told, given = "nothing to say", "not taken"
    assert second == {name: f"ValueError: {text}" for name, text in zip(first, (told, given, given), strict=True)}
    failed = "UsageError: [rank 0] Rank 1 could not"
    assert first["says"].startswith(f"{failed} restore: {told}")
    assert first["takes"].startswith(f"{failed} restore: {given}")
    assert first["callback"].startswith(f"{failed} give its callbacks their state: {given}")


class _Kept:
    """One value of each kind."""

    def __init__(self, number: float):
        entry = hvd.checkpoint.Entry
        self.state = {kind: entry({"n": np.float32([number])}, kind) for kind in ("common", "per_rank", "mean", "sum")}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = {kind: float(value["n"][0]) for kind, value in state.items()}


@pytest.mark.parametrize(
    ("rank", "size", "wanted"),
    [
        (1, 2, {"common": 1.0, "per_rank": 4.0, "mean": 4.0, "sum": 4.0}),  # as many: its own, and what is common
        (0, 3, {"common": 1.0, "per_rank": 1.0, "mean": 2.5, "sum": 5.0}),
        (1, 3, {"common": 1.0, "per_rank": 4.0, "mean": 2.5, "sum": 0.0}),
        (2, 3, {"common": 1.0, "per_rank": 1.0, "mean": 2.5, "sum": 0.0}),  # a new one
    ],
)
def test_each_kind_on_as_many_ranks_and_on_others(rank, size, wanted):
    parts = []
    for saved in range(2):
        arrays: list = []
        said = encode_entries("Kept", entries_of(_Kept([1.0, 4.0][saved])), arrays, saved)
        assert ("common" in said["attributes"]) == (saved == 0)
        parts.append(pack("kept", [{"class": "kept", **said}], arrays))
    kept = _Kept(9.0)
    SavedObjects("kept", parts, rank, size).give([("kept", kept)])
    assert kept.state == wanted


def test_what_no_checkpoint_can_hold_is_refused_by_its_name(tmp_path):
    class Words(keras.callbacks.Callback):
        def state_dict(self):
            return {"words": {1, 2}}

        def load_state_dict(self, state):
            pass

    hvd.init()
    x = np.ones((8, 3), "float32")
    saving = hvd.callbacks.CheckpointCallback(tmp_path, every=1)
    with pytest.raises(UsageError, match=r"Words.state_dict\(\) has a set in 'words'") as error:
        cases._small(hvd.DistributedOptimizer("sgd")).fit(x, x[:, :1], verbose=0, callbacks=[Words(), saving])
    assert "sorted(a_set)" in str(error.value)
    saving._saver.close()


def test_another_shape_is_refused_by_its_name(tmp_path):
    hvd.init()
    model, reducer = cases.rounded()
    reducer.residuals = [keras.Variable(np.zeros(3, "float32"))]
    hvd.checkpoint.save(model, tmp_path, step=1)
    reducer.residuals = [keras.Variable(np.zeros(7, "float32"))]
    with pytest.raises(
        UsageError, match=r"Rounded.state_dict\(\)\['residuals'\] is float32 \[7\], and was float32 \[3\]"
    ):
        hvd.checkpoint.restore(model, tmp_path)


def test_a_kind_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match=r"`kind` must be one of common, per_rank, mean, sum\. Received: kind='own'"):
        hvd.checkpoint.Entry(1, "own")
