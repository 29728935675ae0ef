"""The gradient noise scale against the closed form, on ranks that exchange gradients."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.errors import UsageError
from hvdkit.testing import run_ranks
from tests.callbacks import noise_cases as cases
from tests.chaos.common import count
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]

HOWS = {
    "near": {"distance": 0.5},
    "far": {"distance": 3.0},
    "every third": {"distance": 0.5, "every": 3},
    "accumulated": {"distance": 0.5, "accumulate": 2, "batch": 4},
    "accumulated, every second": {"distance": 0.5, "accumulate": 2, "batch": 4, "every": 2, "samples": 24_000},
    "steps together": {"distance": 0.5, "together": 4},
    "scaled": {"distance": 0.5, "policy": "mixed_float16"},
    "summed": {"distance": 0.5, "op": "Sum"},
    "unequal": {"distance": 0.5, "sizes": [12, 4]},
    "traced before": {"distance": 0.5, "before": True, "samples": 8_000},
}


CASES = [("mpi", name) for name in HOWS] + [("gloo", name) for name in HOWS if count(0, 1) or name == "near"]


@functools.cache
def _ranks(engine: str) -> list[dict]:
    hows = {name: HOWS[name] for its, name in CASES if its == engine}
    return run_ranks(2, cases.all_of, hows, **world(engine), timeout=500).values


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_it_is_the_closed_form(engine, name):
    first, second = (mine[name] for mine in _ranks(engine))
    assert first["estimate"] == pytest.approx(first["exact"], rel=0.15)
    assert first["logs"] == second["logs"]


def test_it_changes_no_training_and_says_what_pays():
    done = run_ranks(2, cases.training, 4, **world("mpi"))
    for mine in done.values:
        for a, b in zip(*mine["weights"], strict=True):
            assert a.tobytes() == b.tobytes()
        assert mine["scales"][-1] > mine["scales"][0] > 0
        assert "SyncBatchNormalization prevents" in mine["refused"]
    assert done.output.count("Gradient noise scale about") == 4, "one line an epoch, from rank 0"
    assert "still pays" in done.output


def test_in_a_world_of_one_it_says_so(caplog, capfd):
    hvd.init()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    x = np.ones((8, 2))
    model.fit(x, x[:, :1], verbose=0, callbacks=[hvd.callbacks.GradientNoiseScale()])
    assert "at least two ranks" in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("wrong", [{"every": 0}, {"smoothing": 1.0}])
def test_mistakes(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        hvd.callbacks.GradientNoiseScale(**wrong)
