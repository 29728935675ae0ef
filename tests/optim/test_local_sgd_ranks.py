"""Local SGD against NumPy-simple references: one process, synchronous training, the means by hand."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.checkpoint.exporting import model_of
from hvdkit.checkpoint.storage.store import Store
from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import reduction_state_of
from hvdkit.testing import run_ranks
from tests.chaos.common import count
from tests.machine import world
from tests.optim import local_sgd_cases as cases

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]

PLAIN = {"n": 53, "epochs": 2}  # a last step that is not full, and one that leaves a rank empty
INNERS = ("sgd", "momentum", "accumulate", "loss scale")
HOWS = {
    **{f"{inner} 1": {"inner": inner, "sync_period": 1, **PLAIN} for inner in INNERS},
    **{f"{inner} sync": {"inner": inner, **PLAIN} for inner in INNERS},
    "sgd 4": {"inner": "sgd", "sync_period": 4, "n": 80, "epochs": 2, "validation": True},
    "built": {"inner": "sgd", "sync_period": 4, "n": 80, "epochs": 2, "built": True},
    "adam 4": {"inner": "adam", "sync_period": 4, "n": 80, "epochs": 1},
    "late": {"inner": "momentum", "sync_period": 3, "start_step": 5, "n": 80, "epochs": 1},
    "late sync": {"inner": "momentum", "n": 80, "epochs": 1},
    "outer": {"inner": "sgd", "sync_period": 4, "outer_lr": 0.7, "outer_momentum": 0.9, "n": 80, "epochs": 1},
    "outer plain": {
        "inner": "sgd", "sync_period": 4, "outer_lr": 0.7, "outer_momentum": 0.9, "nesterov": False,
        "n": 80, "epochs": 1,
    },
    "jit 4": {"inner": "sgd", "sync_period": 4, "n": 80, "epochs": 2, "jit": True},
}  # fmt: skip
ENGINES = ["gloo", "mpi"]
# Over Gloo those in which another order of collectives could be another result, or a hang.
OVER_GLOO = [name for name in HOWS if count(0, 1) or name.startswith(("loss scale", "accumulate", "sgd 4", "late"))]
CASES = [("mpi", name) for name in HOWS] + [("gloo", name) for name in OVER_GLOO]


@functools.cache
def _ranks(engine: str) -> list[dict]:
    hows = {name: HOWS[name] for its, name in CASES if its == engine}
    return run_ranks(2, cases.all_of, hows, **world(engine), timeout=500).values


@pytest.mark.parametrize(("engine", "inner"), [(e, name[:-2]) for e, name in CASES if name.endswith(" 1")])
def test_a_period_of_one_step_is_synchronous_training(engine, inner):
    for mine in _ranks(engine):
        for a, b in zip(mine[f"{inner} 1"]["weights"], mine[f"{inner} sync"]["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_is_steps_of_ones_own_and_then_the_mean(engine):
    ranks = _ranks(engine)
    x, y = cases.samples(80)
    nets = [cases.model() for _ in range(2)]
    for net in nets:
        net.compile(keras.optimizers.SGD(0.05), "mse")
    steps = [np.arange(i * 8, i * 8 + 8) for i in range(10)]
    rows = _shares(steps)
    done = 0
    for _epoch in range(2):
        for step in range(10):
            for rank, net in enumerate(nets):
                np.testing.assert_allclose(ranks[rank]["sgd 4"]["seen"][done], net.weights[0].numpy(), atol=1e-6)
                net.train_on_batch(x[rows[rank][step]], y[rows[rank][step]])
            done += 1
            if step % 4 == 3 or step == 9:  # the end of a round, and of the epoch
                _average(nets)
    for a, b in zip(ranks[0]["sgd 4"]["weights"], nets[0].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert ranks[0]["sgd 4"]["reductions"] == 6
    losses = [net.evaluate(x[:8], y[:8], verbose=0) for net in nets[:1]]
    assert ranks[0]["sgd 4"]["validation"][-1] == pytest.approx(losses[0], rel=1e-5)


def _shares(steps):
    """Which samples a rank has in each step, as hvd.data.shard shares them out."""
    hvd.init()
    data = hvd.data.shard(np.arange(80), np.arange(80), batch_size=8, shuffle=False)
    whole = data.rows(0)
    return [[step[:4] for step in whole], [step[4:] for step in whole]]


def _average(nets):
    means = [np.mean(each, axis=0) for each in zip(*[net.get_weights() for net in nets], strict=True)]
    for net in nets:
        net.set_weights(means)


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_ranks_end_equal(engine, name):
    first, second = (mine[name] for mine in _ranks(engine))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first["weights"], second["weights"], strict=True))


@pytest.mark.parametrize("engine", ["mpi"])
def test_xla_does_the_same(engine):
    for a, b in zip(_ranks(engine)[0]["jit 4"]["weights"], _ranks(engine)[0]["sgd 4"]["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_until_the_switch_it_is_synchronous(engine):
    first, second = _ranks(engine)
    equal = [a.tobytes() == b.tobytes() for a, b in zip(first["late"]["seen"], second["late"]["seen"], strict=True)]
    assert equal == [True] * 6 + [False, False, True, False]  # before each of the ten steps
    for i in range(6):
        np.testing.assert_allclose(first["late"]["seen"][i], first["late sync"]["seen"][i], atol=1e-6)
    assert first["late"]["reductions"] == 5 + 2  # the second round ends with the epoch


@pytest.mark.parametrize(("engine", "name"), [case for case in CASES if case[1].startswith("outer")])
def test_the_outer_step_is_dilocos(engine, name):
    """From what each rank had before and after each round, by the formula."""
    first, second = (mine[name]["seen"] for mine in _ranks(engine))
    x, y = cases.samples(80)
    net = cases.model()
    net.compile(keras.optimizers.SGD(0.05), "mse")
    hvd.init()
    anchor = [w.astype(np.float64) for w in net.get_weights()]
    velocity = [np.zeros_like(w) for w in anchor]
    rows = _shares(None)
    for begin, end in ((0, 4), (4, 8), (8, 10)):
        for seen in (first, second):
            np.testing.assert_allclose(seen[begin], anchor[0], atol=2e-6)
        ends = []
        for rank in range(2):
            net.set_weights(anchor)
            for step in range(begin, end):
                net.train_on_batch(x[rows[rank][step]], y[rows[rank][step]])
            ends.append(net.get_weights())
        moved = [a - np.mean([e[i] for e in ends], axis=0) for i, a in enumerate(anchor)]
        velocity = [0.9 * v + m for v, m in zip(velocity, moved, strict=True)]
        steps = [m + 0.9 * v for m, v in zip(moved, velocity, strict=True)] if name == "outer" else velocity
        anchor = [a - 0.7 * s for a, s in zip(anchor, steps, strict=True)]
    for a, b in zip(_ranks(engine)[0][name]["weights"], anchor, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def test_an_optimizer_that_has_its_slots_already():
    for mine in _ranks("mpi"):
        for a, b in zip(mine["built"]["weights"], mine["sgd 4"]["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_second_fit_goes_on_with_each_ranks_own_slots():
    how = {"inner": "momentum", "sync_period": 4}
    one, two = (run_ranks(2, cases.twice, how, fits, **world("mpi")).values for fits in (1, 2))
    for a, b in zip(one[0], two[0], strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("inner", ["adam", "momentum"])
def test_a_checkpoint_in_the_middle_of_a_round(tmp_path, inner):
    """To the last bit, with weights and slots that differ between the ranks."""
    how = {"inner": inner, "sync_period": 5, "outer_momentum": 0.5, "n": 48}
    straight = run_ranks(2, cases.go_on, str(tmp_path), how, True, **world("mpi")).values
    broken = run_ranks(2, cases.go_on, str(tmp_path), how, False, **world("mpi")).values
    assert broken[0]["apart"].tobytes() != broken[1]["apart"].tobytes()
    for mine, theirs in zip(straight, broken, strict=True):
        for a, b in zip(mine["weights"], theirs["weights"], strict=True):
            assert a.tobytes() == b.tobytes()
    exported = model_of(Store(tmp_path).newest_valid())
    np.testing.assert_allclose(
        exported.weights[0].numpy(), (broken[0]["apart"] + broken[1]["apart"]) / 2, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sync_period": 0}, "`sync_period`"),
        ({"start_step": -1}, "`start_step`"),
        ({"outer_lr": 0}, "outer_lr"),
        ({"outer_momentum": 1}, "outer_mo"),
    ],
)
def test_numbers_out_of_range(wrong, says):
    hvd.init()
    with pytest.raises(UsageError, match=says):
        hvd.optim.LocalSGD("sgd", **wrong)


def test_no_moving_average_of_weights():
    hvd.init()
    with pytest.raises(UsageError, match="use_ema"):
        hvd.optim.LocalSGD(keras.optimizers.SGD(0.1, use_ema=True))


def test_the_old_names_work_and_warn():
    hvd.init()
    with pytest.warns(
        DeprecationWarning, match=r"hvd\.strategies\.local_sgd is deprecated .* use hvd\.optim\.LocalSGD"
    ):
        optimizer = hvd.strategies.local_sgd("sgd", k=4, start=2)
    averaging = reduction_state_of(optimizer).averaging
    assert (averaging.sync_period, averaging.start_step) == (4, 2)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.warns(DeprecationWarning, match=r"hvd\.optim\.synchronize"):
        hvd.strategies.end_round(model)
