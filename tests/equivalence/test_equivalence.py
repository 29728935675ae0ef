"""The oracle: N ranks x batch b = 1 process x batch N*b, for every optimizer, clip and accumulation."""

from __future__ import annotations

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.equivalence import cases

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def two_ranks():
    return run_ranks(2, cases.train_all, cases.names(), timeout=900).values


@pytest.fixture(scope="module")
def one_process():
    hvd.init()
    return cases.train_all(cases.names())


@pytest.mark.parametrize("name", cases.names())
@pytest.mark.timeout(1200)
def test_two_ranks_are_one_process(name, two_ranks, one_process):
    first, second = (rank[name]["weights"] for rank in two_ranks)
    alone = one_process[name]["weights"]
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes(), "the ranks differ"
    for a, c in zip(first, alone, strict=True):
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", cases.names())
def test_one_reduction_per_update(name, two_ranks):
    k = int(name[-1]) if name.endswith(("k2", "k4")) else 1
    assert two_ranks[0][name]["reductions"] == cases.STEPS // k
