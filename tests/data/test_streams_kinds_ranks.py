"""Streams of strings, ragged and sparse tensors and all dtypes, and of epochs that a PyDataset chooses for itself."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.data import kinds
from hvdkit.testing import run_ranks
from tests.data import kind_cases as cases
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]
WORLDS = [("gloo", 2), ("mpi", 3)]
# Tracing takes the time: over MPI only what has every component in it.
KINDS = [("gloo", 2, kind) for kind in cases.KINDS] + [
    ("mpi", 3, kind) for kind in ("ragged twice", "nested", "dtypes")
]
EPOCHS = [("gloo", 2, *how) for how in cases.RESHUFFLED] + [("mpi", 3, *how) for how in cases.RESHUFFLED[1:3]]


@functools.cache
def _on_ranks(engine: str, ranks: int) -> list[dict]:
    wanted = [kind for its, _, kind in KINDS if its == engine]
    epochs = [how for its, _, *how in EPOCHS if its == engine]
    return run_ranks(ranks, cases.everything, wanted, epochs, timeout=550, **world(engine)).values


def _close(ranks: list[list], alone: list, atol: float = 1e-6) -> None:
    for mine in ranks[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(ranks[0], mine, strict=True)), "the ranks differ"
    for a, b in zip(ranks[0], alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(("engine", "ranks", "kind"), KINDS)
def test_every_kind_trains_as_one_process(engine, ranks, kind):
    """A tail of one sample leaves a rank without any in the last step; with one sample, it has never had any."""
    hvd.init()
    full = 3 * cases.EACH * ranks
    for name, n in ((kind, full + 1), (f"{kind}, one sample", 1)):
        everyone = [rank[name] for rank in _on_ranks(engine, ranks) if name in rank]
        if not everyone:
            continue
        alone = cases.train_on(kind, n, ranks * cases.EACH)
        _close([rank["weights"] for rank in everyone], alone["weights"])
        for number, rank in enumerate(everyone):
            np.testing.assert_allclose(rank["loss"], alone["loss"], rtol=2e-5)
            mine = cases.dataset(kind, n).shard(ranks, number).batch(cases.EACH)
            assert rank["digests"] == [kinds.digest(batch) for batch in mine], "other samples than its own"


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_a_model_of_texts_is_that_of_one_process(engine, ranks):
    hvd.init()
    full = 3 * cases.EACH * ranks
    alone = cases.text_model(cases.text_dataset(full).batch(cases.EACH * ranks), full)
    for name in ("texts", "texts U", "texts S", "texts O"):
        _close([rank[name] for rank in _on_ranks(engine, ranks)], alone)


@pytest.mark.parametrize(("engine", "ranks", "workers", "more"), EPOCHS)
def test_a_pydataset_chooses_its_epochs_as_with_plain_keras(engine, ranks, workers, more):
    hvd.init()
    plain = cases.reshuffled(ranks, 1, more, sharded=False)
    alone = cases.reshuffled(ranks, workers, more, sharded=True)
    if not more:
        _close([alone["weights"]], plain["weights"])
    everyone = [rank["reshuffled"][f"{workers} {more}"] for rank in _on_ranks(engine, ranks)]
    _close([rank["weights"] for rank in everyone], alone["weights"])
    for mine in (alone, *everyone):
        assert mine["log"] == plain["log"] == [w for e in range(3) for w in (f"epoch {e}", f"begin {e + 1}")]
        assert mine["begun"] == plain["begun"] == [3, 3] == mine["ended"]
        assert mine["in the main thread"], "a collective in it would meet others"


REFUSED = {
    "window": "The data's element is a Dataset",
    "nested dataset": "Component ['b'][1] of the data is a Dataset",
    "variant": "Component [1] of the data is a tensor of variant",
    "optional": "The data's element is a Optional",
    "array": "The data's element is a TensorArray",
    "none": "Component [1] of the data is a NoneTensor",
    "quantized": "The data's element is a tensor of qint8",
    "unknown shape": "The data's element has a shape of unknown rank",
    "no batches": "The data's element has no axis of samples",
    "objects": "Component [0] of the data is an array of object",
    "dates": "Component [0] of the data is an array of datetime64[s]",
    "python none": "Component [2] of the data is None",
}
OF_SEVERAL = {
    "other texts": "The ranks do not agree on the first element of their data",
    "other rows": "The ranks do not agree on the first element of their data",
    "a begin that fails": "its file is gone",
    "unequal epochs": "The ranks have different numbers of batches in this epoch: 4, 5",
}


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_what_cannot_be_shared_out_is_an_error_on_every_rank(engine, ranks):
    for rank in _on_ranks(engine, ranks):
        for name, words in (REFUSED | OF_SEVERAL).items():
            assert words in rank["refused"][name], name
        assert all(rank["refused"][name].startswith("UsageError") for name in REFUSED)
        assert "no batches in this epoch" in rank["refused"]["no batches left"]


def test_what_cannot_be_shared_out_is_an_error_in_one_process_too():
    hvd.init()
    found = cases.refused()
    for name, words in REFUSED.items():
        assert found[name].startswith("UsageError") and words in found[name], name
    assert "no batches in this epoch" in found["no batches left"]


def test_batches_of_a_pydataset_that_differ_in_an_axis_and_sparse_ones_of_scipy():
    import scipy.sparse
    import tensorflow as tf

    spec = kinds.spec_of([np.zeros((2, 3, 1)), np.zeros((2, 5, 1))])
    assert spec == tf.TensorSpec((None, None, 1), tf.float64)
    found = kinds.tensors_of((scipy.sparse.csr_matrix([[0.0, 2.0], [1.0, 0.0]]), [1, 2]))
    assert tf.sparse.to_dense(found[0]).numpy().tolist() == [[0, 2], [1, 0]]
