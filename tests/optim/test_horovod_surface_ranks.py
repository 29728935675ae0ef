"""The surface of ``horovod.tensorflow.keras`` on real ranks, with each engine."""

from __future__ import annotations

import numpy as np
import pytest

from hvdkit.testing import run_ranks
from tests.machine import world
from tests.optim import on_ranks

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]

WORLDS = [(2, "gloo"), (3, "gloo"), (2, "horovod-mpi"), (2, "mpi"), (3, "mpi")]


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world[1]}-{world[0]}")
def ranks(request):
    """What every rank returned, by the name of the check."""
    n, name = request.param
    how = world(name)
    how["environ"] = {**how.get("environ", {}), "HOROVOD_TIMELINE": "DYNAMIC"}
    values = run_ranks(n, on_ranks.everything, **how, timeout=500).values

    def of(name: str) -> list[dict]:
        results = [value[name] for value in values]
        raised = {rank: result["raised"] for rank, result in enumerate(results) if "raised" in result}
        assert not raised, "\n".join(f"rank {rank}: {text}" for rank, text in raised.items())
        return results

    of.size, of.world = n, name
    return of


def _same_on_all(results: list, key: str) -> None:
    assert len({str(result[key]) for result in results}) == 1


@pytest.mark.parametrize("local", [0, 2])
@pytest.mark.parametrize("mean", [False, True])
def test_aggregation(ranks, mean, local):
    size, passes = ranks.size, 4
    results = ranks(f"aggregation {'mean' if mean else 'sum'}{', local' if local else ''}")
    for rank, result in enumerate(results):
        for step, (xs, ys) in enumerate(result["got"]):
            updates = ((step + 1) // passes) * (1 if mean else passes)
            for i in range(4):
                own = i < local
                x = updates / size if own else updates
                y = updates * ((rank + 1) / size if own else (size + 1) / 2)
                assert xs[i] == pytest.approx(x)
                assert ys[i] == pytest.approx([1.0 - y, 2.0])
        assert result["iterations"] == 10 // passes
        assert result["reductions"] == 10 // passes


def test_an_infinite_gradient_is_forgotten(ranks):
    for result in ranks("inf"):
        assert result["values"][0] == 0.0 and np.isinf(result["values"][1])
        assert result["values"][2:] == [0.0, 3.0]


def test_embedding_with_passes(ranks):
    results = ranks("embedding")
    for result in results:
        assert result["changed"] == [False, True, True]
        assert result["reductions"] == 1
    _same_on_all(results, "sha")


@pytest.mark.parametrize("what", ["loss_scale_factor", "passes"])
def test_sparse_gradients_where_keras_raises(ranks, what):
    for result in ranks("sparse"):
        sparse, dense = result[what]
        np.testing.assert_allclose(sparse, dense, rtol=1e-6)
        assert sparse != [[1.0, 1.0]] * 4


def test_passes_with_the_mean_are_keras_accumulation(ranks):
    results = ranks("passes")
    for result in results:
        assert result["passes"] == result["keras"]
        assert result["reductions"] == 2
    _same_on_all(results, "passes")


def test_passes_for_an_optimizer_that_was_built(ranks):
    for result in ranks("built"):
        assert result["iterations"] == [1, 1, 2]


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_partial_optimizer(ranks, layers):
    size = ranks.size
    mean = (size + 1) / 2
    for rank, result in enumerate(ranks(f"partial {layers}")):
        for scaled, own in (("scaled=True", (rank + 1) / size), ("scaled=False", rank + 1)):
            expected = [own] * (2 * layers) + [mean] * (4 - 2 * layers)
            assert result[scaled] == pytest.approx(expected, abs=1e-4)


def test_tapes(ranks):
    size = ranks.size
    mean, rows = (size + 1) / 2, [[2 / size] * 2] * size + [[0.0, 0.0]] * (4 - size)
    for rank, result in enumerate(ranks("tape")):
        dense = [[mean, mean], rows]
        for name in (
            "dense first",
            "densified",
            "one group",
            "groups of variables",
            "one in a group",
            "predivided",
            "fp16",
        ):
            np.testing.assert_allclose(result[name][0], dense[0], rtol=2e-3, err_msg=name)
            np.testing.assert_allclose(result[name][1], dense[1], rtol=2e-3, err_msg=name)
        np.testing.assert_allclose(result["sparse first"][0], rows, rtol=1e-6)
        assert result["sparse first"][1:] == [[mean, mean], None]
        np.testing.assert_allclose(result["sum"][1], np.array(rows) * size, rtol=1e-6)
        assert result["is sparse"]
        assert result["one variable"] == [mean, mean]
        assert result["two at once"] == [[mean, mean], [2 * mean, 2 * mean]]
        assert (result["local"], result["global"]) == (rank + 1, mean)


def test_a_tape_in_train_step(ranks):
    _same_on_all(ranks("tape in fit"), "sha")


def test_compressions(ranks):
    mean = (ranks.size + 1) / 2
    for result in ranks("compressions"):
        for name in ("none", "fp16", "name", "own"):
            assert result[name] == pytest.approx([mean, 3 * mean], rel=2e-3)
            assert result[f"allreduce {name}"] == pytest.approx([(ranks.size - 1) / 2], rel=2e-3)


def test_adasum(ranks):
    for result in ranks("adasum"):
        if ranks.size == 3 or ranks.world == "gloo":
            assert ("power of two" if ranks.size == 3 else "over MPI only") in result["error"]
        else:
            assert result["parallel"] == pytest.approx([1.0] * 4)
            assert result["orthogonal"] == pytest.approx([1.0, 1.0, 0.0, 0.0])


def test_from_config(ranks):
    for result in ranks("from_config"):
        assert result == {"equal": [True, True], "name": "Adam"}


@pytest.mark.parametrize("what", ["none", "number", "shape", "dtype", "sparse", "local"])
def test_gradients_that_differ_end_every_rank(ranks, what):
    named = {"none": "second", "number": "second", "local": "first"}.get(what, "first")
    for result in ranks("differ"):
        text, seconds = result[what]
        assert "The ranks do not agree on their gradients" in text
        assert named in text
        assert "rank 1: " in text and ("rank 0: " in text or "ranks 0, 2: " in text)
        assert seconds < 15


@pytest.mark.parametrize(
    ("which", "name"),
    [
        ("plain", "RMSprop"),
        ("h5", "Adam"),
        ("class", "OwnRMSprop"),
        ("lambda", "OwnRMSprop"),
        ("loss scale", "LossScaleOptimizer"),
    ],
)
def test_load_model(ranks, which, name):
    results = [result[which] for result in ranks("load")]
    for result in results:
        assert result["class"] == name
        assert result["distributed"] and result["kept"] and result["goes on"]
        assert result["iterations"] == 3
    _same_on_all(results, "sha")


def test_load_on_rank_0_and_broadcast(ranks):
    results = ranks("load on rank 0")
    for rank, result in enumerate(results):
        assert result["variables"] == [6 if rank == 0 else 2, 6]
        assert result["iterations"] == 2
    _same_on_all(results, "sha")
    _same_on_all(results, "slots")


def test_broadcast_global_variables(ranks):
    results = ranks("broadcast")
    for result in results:
        assert result["rate"] == pytest.approx(0.1 * ranks.size)
        assert result["variable"] == ranks.size - 1
        assert "broadcast_global_variables(0, model)" in result["error"]
    _same_on_all(results, "sha")


def test_timeline(ranks):
    assert [result["text"] for result in ranks("timeline")] == [True] + [False] * (ranks.size - 1)


def test_passes_and_loss_scale(ranks):
    mean = (ranks.size + 1) / 2
    for result in ranks("loss scale"):
        for nesting in ("inside", "outside"):
            values, scale = result[nesting]
            # Two passes make an update of the mean; the pass with the NaN does not count, and halves the scale.
            assert values[:2] == pytest.approx([0.0, -mean])
            assert scale == 2.0
            assert np.isfinite(values).all()


def test_reductions_of_one_name_keep_their_order(ranks):
    for result in ranks("one name"):
        assert result == {"optimizer": [-1.0, -101.0], "optimizers": [-1.0, -100.0], "tapes": [1.0, 100.0]}


def test_a_nan_in_a_local_gradient_is_skipped_by_all(ranks):
    for result in ranks("local loss scale"):
        assert result == {"common": -2.0, "scale": 2.0, "around": True}


def test_passes_after_loading(ranks):
    for result in ranks("loaded passes"):
        assert result["['backward_passes_per_step']"] == pytest.approx(1.0)
        assert result["[]"] == pytest.approx(0.5)


def test_smaller_things(ranks):
    for result in ranks("smaller"):
        assert result["whole slices"] == [[4 / ranks.size], [8 / ranks.size]] * ranks.size
        assert "`name` must be a string" in result["average by position"]
        assert "is not built" in result["not built"]
        assert result["named object"] == {"a": 1}
        assert result["uint32"] == [4_000_000_000]
        assert result["in a graph"] == [1.5, [ranks.size, 1]]
        assert "cannot be divided" in result["a rest"]
        assert result["pipelines"] == 1
