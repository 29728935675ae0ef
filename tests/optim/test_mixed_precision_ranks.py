"""mixed_float16 with a NaN or inf on one rank: every rank skips that step, or none does, and nothing hangs."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]

STEPS, BAD_STEP, SCALE = 8, 3, 1024.0
NESTINGS = ("compile", "outside", "inside")


def _optimizer(nesting: str, k: int, compression: str | None):
    adam = keras.optimizers.Adam(1e-3, global_clipnorm=1.0, **({"gradient_accumulation_steps": k} if k > 1 else {}))
    if nesting == "compile":  # compile() wraps it in a LossScaleOptimizer by itself
        return hvd.DistributedOptimizer(adam, compression=compression)
    if nesting == "outside":
        return keras.optimizers.LossScaleOptimizer(
            hvd.DistributedOptimizer(adam, compression=compression), initial_scale=SCALE
        )
    return hvd.DistributedOptimizer(
        keras.optimizers.LossScaleOptimizer(adam, initial_scale=SCALE), compression=compression
    )


class _Record(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_end(self, batch, logs=None):
        scaler = self.model.optimizer
        raw = int(scaler.inner_optimizer._iterations)
        self.rows.append([raw, float(scaler.dynamic_scale), float(self.model.layers[0].kernel.numpy().sum())])


def train(nesting: str, k: int, bad: float, compression: str | None = None, size_of_y: float = 1.0) -> dict:
    """One training with ``bad`` planted into rank 1's batch of one step; iterations, scale and a weight per step."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1, dtype="float32")])
        model.compile(_optimizer(nesting, k, compression), "mse")
        if nesting == "compile":
            assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
            model.optimizer.initial_scale = SCALE
        rng = np.random.default_rng(hvd.rank())
        x = rng.normal(size=(STEPS * 4, 3)).astype("float32")
        y = size_of_y * x.sum(1, keepdims=True)
        if hvd.rank() == hvd.size() - 1:
            x[BAD_STEP * 4] = bad
        record = _Record()
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[record])
        digest = hvd.assert_equal_weights(model)
        finite = all(np.isfinite(w).all() for w in model.get_weights())
        return {"rows": record.rows, "digest": digest, "finite": finite}
    finally:
        keras.config.set_dtype_policy("float32")


def train_all() -> dict:
    out = {
        f"{nesting} k{k} {bad}": train(nesting, k, bad)
        for nesting in NESTINGS
        for k, bad in ((1, np.nan), (1, np.inf), (2, np.nan))
    }
    out["fp16 overflow"] = train("inside", 1, 1.0, compression="fp16", size_of_y=1e3)
    out["nothing bad"] = train("compile", 1, 1.0)
    return out


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(2, train_all).values


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("what", ["k1 nan", "k1 inf", "k2 nan"])
def test_every_rank_skips_the_step(ranks, nesting, what):
    for out in ranks:
        rows, finite = out[f"{nesting} {what}"]["rows"], out[f"{nesting} {what}"]["finite"]
        iterations, scales, weights = zip(*rows, strict=True)
        assert list(iterations) == [1, 2, 3, 3, 4, 5, 6, 7], "the bad step, and only it, was skipped"
        assert list(scales) == [SCALE] * 3 + [SCALE / 2] * 5, "the loss scale was halved once"
        assert weights[BAD_STEP] == weights[BAD_STEP - 1] and finite


def test_both_ranks_did_the_same(ranks):
    for name, first in ranks[0].items():
        assert first["rows"] == ranks[1][name]["rows"] and first["digest"] == ranks[1][name]["digest"]


def test_half_precision_overflow_is_skipped_too(ranks):
    """Gradients that are finite in float32 but not on the wire: decided after the reduction, so it is seen."""
    rows = ranks[0]["fp16 overflow"]["rows"]
    assert rows[0][0] == 0 and rows[0][1] == SCALE / 2, "the first, too large step was skipped"
    assert rows[-1][0] > 0 and ranks[0]["fp16 overflow"]["finite"], "and training went on at a smaller scale"


def test_without_a_bad_value_nothing_is_skipped(ranks):
    assert [row[0] for row in ranks[0]["nothing bad"]["rows"]] == list(range(1, STEPS + 1))


def test_a_single_process_does_the_same():
    hvd.init()
    rows = train("compile", 2, np.nan)["rows"]
    assert [row[0] for row in rows] == [1, 2, 3, 3, 4, 5, 6, 7]
    assert [row[1] for row in rows] == [SCALE] * 3 + [SCALE / 2] * 5
