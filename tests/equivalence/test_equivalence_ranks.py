"""The oracle: N ranks x batch b = 1 process x batch N*b, for every optimizer, clip and accumulation."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.chaos.common import count
from tests.equivalence import cases
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]


# With Gloo every case; the others differ in how bytes move, and get the special cases and a part of the grid.
EMBEDDED = [name for name in cases.names() if name.endswith("embedding")]
REST = [name for name in cases.names() if name not in EMBEDDED]
GRID = len(REST) - len(cases.EXTRAS) - len(cases.OPTIMIZERS)
SOME = [*REST[:GRID:5], *REST[GRID:], *EMBEDDED[:: count(3, 1)]]
CASES = [("gloo", name) for name in cases.names()] + [("mpi", name) for name in SOME]


@functools.cache
def _two_ranks(engine: str) -> list[dict]:
    mine = [name for its, name in CASES if its == engine]
    return run_ranks(2, cases.train_all, mine, **world(engine), timeout=900).values


@pytest.fixture(scope="module")
def one_process():
    hvd.init()
    return cases.train_all(cases.names())


@pytest.mark.parametrize(("engine", "name"), CASES)
@pytest.mark.timeout(1200)
def test_two_ranks_are_one_process(engine, name, one_process):
    first, second = (rank[name]["weights"] for rank in _two_ranks(engine))
    alone = one_process[name]["weights"]
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes(), "the ranks differ"
    for a, c in zip(first, alone, strict=True):
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("engine", "name"), CASES)
@pytest.mark.timeout(1200)
def test_one_reduction_per_update(engine, name):
    k = int(name[-1]) if name.endswith(("k2", "k4")) else 1
    assert _two_ranks(engine)[0][name]["reductions"] == cases.STEPS // k


def test_what_keras_itself_cannot_do_with_sparse_gradients():
    """Where one process has no result, there is none to be equal to: hvdkit makes the gradient dense there."""
    import keras

    model, x, y = cases._model_and_data("adam-embedding")
    model.compile(keras.optimizers.Adam(1e-3, loss_scale_factor=128.0), "mse")
    with pytest.raises(TypeError, match="IndexedSlices"):
        model.fit(x, y, batch_size=16, verbose=0)
