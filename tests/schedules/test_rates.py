"""Learning rates against closed forms, at every step."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.errors import UsageError
from hvdkit.schedules import LargeBatchSchedule, large_batch, scale

BASE, BASE_BATCH, BATCH, WARMUP, EPOCHS = 0.1, 64, 32, 2, 10


@pytest.fixture(autouse=True)
def _world():
    hvd.init()


def cosine(epoch, base, peak):
    if epoch < WARMUP:
        return base + (peak - base) * epoch / WARMUP
    return peak * 0.5 * (1 + math.cos(math.pi * min((epoch - WARMUP) / (EPOCHS - WARMUP), 1)))


def polynomial(epoch, base, peak):
    if epoch < WARMUP:
        return base + (peak - base) * epoch / WARMUP
    return peak * max(1 - (epoch - WARMUP) / (EPOCHS - WARMUP), 0) ** 2


def step(epoch, base, peak):
    if epoch < WARMUP:
        return base + (peak - base) * epoch / WARMUP
    return peak if epoch < 4 else peak / 10 if epoch < 8 else peak / 100


def constant(epoch, base, peak):
    return base + (peak - base) * epoch / WARMUP if epoch < WARMUP else peak


CLOSED = {"cosine": cosine, "polynomial": polynomial, "constant": constant, "step": step}
AFTER = {name: name for name in CLOSED} | {"step": {"name": "step", "boundaries": [4, 8]}}


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("rule", ["linear", "sqrt", "none"])
@pytest.mark.parametrize("after", CLOSED)
def test_every_rate_is_the_closed_form(after, rule, ranks, accumulation):
    steps = 24  # of an epoch, for each of which Keras counts one
    schedule = large_batch(
        BASE, BASE_BATCH, BATCH, steps, WARMUP, AFTER[after], epochs=EPOCHS, scale=rule, accumulation=accumulation,
        size=ranks,
    )  # fmt: skip
    times = BATCH * ranks * accumulation / BASE_BATCH
    peak = BASE * {"linear": times, "sqrt": math.sqrt(times), "none": 1.0}[rule]
    for micro in range(0, steps * (EPOCHS + 1), 1 if ranks == 2 else 7):
        update = micro // accumulation
        expected = CLOSED[after](update / (steps / accumulation), min(BASE, peak), peak)
        assert float(schedule(micro)) == pytest.approx(expected, rel=2e-7, abs=1e-12), micro


def test_a_keras_schedule_after_the_warm_up_is_scaled():
    own = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    schedule = large_batch(0.1, 32, 32, 5, 2, own, accumulation=1, size=4)
    rates = [float(schedule(s)) for s in (0, 5, 10, 20)]
    assert rates == pytest.approx([0.1, 0.25, 0.4, 0.2], rel=1e-6)
    with pytest.raises(UsageError, match="would jump"):
        large_batch(0.3, 32, 32, 5, 2, own, size=4)


def test_a_smaller_batch_than_the_base_does_not_warm_up_from_above():
    schedule = large_batch(0.1, 64, 16, 10, 2, "constant", size=1)
    assert [float(schedule(s)) for s in (0, 50)] == pytest.approx([0.025, 0.025])


def _saved(schedule, iterations: int) -> dict:
    return {**{name: entry.value for name, entry in schedule.state_dict().items()}, "iterations": iterations}


@pytest.mark.parametrize("batch", [16, 32])
def test_another_number_of_steps_goes_on_at_the_same_epoch(batch):
    """Half the ranks, or half the batch: twice the steps in an epoch."""
    before = large_batch(0.1, 32, 32, 20, 2, "cosine", epochs=10, size=2)
    after = large_batch(0.1, 32, batch, 40, 2, "cosine", epochs=10, size=64 // 2 // batch)
    after.load_state_dict(_saved(before, 20 * 3 + 5))  # 3.25 epochs in
    assert float(after.epoch(20 * 3 + 5)) == 3.25
    half = 0.5 * (1 + math.cos(math.pi * (3.25 - 2) / 8))
    assert float(after(65)) == pytest.approx(0.1 * half, rel=1e-6)
    again = large_batch(0.1, 32, 32, 20, 2, "cosine", epochs=10, size=2)  # and back, from a second checkpoint
    again.load_state_dict(_saved(after, 65 + 30))
    assert float(again.epoch(95)) == 4.0
    same = large_batch(0.1, 32, 32, 20, 2, "cosine", epochs=10, size=2)
    same.load_state_dict(_saved(again, 96))
    assert float(same.epoch(95)) == 4.0


def test_it_serialises_with_an_optimizer():
    for after in ("polynomial", keras.optimizers.schedules.CosineDecay(0.1, 100)):
        schedule = large_batch(0.1, 32, 32, 10, 2, after, epochs=9, accumulation=2, size=8)
        sgd = keras.optimizers.get(keras.optimizers.serialize(keras.optimizers.SGD(schedule)))
        copy = sgd._learning_rate
        assert isinstance(copy, LargeBatchSchedule)
        assert [float(copy(s)) for s in range(0, 90, 7)] == [float(schedule(s)) for s in range(0, 90, 7)]
        began = {"steps": 40, "accumulation": 2, "update": 0, "epoch": 0}  # on other ranks
        schedule.load_state_dict({**began, "iterations": 100})
        assert float(LargeBatchSchedule.from_config(schedule.get_config())(110)) == float(schedule(110))


def test_numbers_of_numpy_are_numbers():
    schedule = large_batch(np.float32(0.1), np.int64(32), np.int64(32), np.int64(10), epochs=np.int64(9))
    json.dumps([_saved(schedule, 0), schedule.get_config()])


def test_the_line_says_what_was_made_of_it(caplog, capfd):
    large_batch(0.1, 256, 64, 10, size=8, accumulation=4, epochs=90)
    said = caplog.text + "".join(capfd.readouterr())
    assert "0.1 for a batch of 256 -> 0.8 for 2048 (64 per rank x 8 ranks x 4 accumulated, scale linear)" in said


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"after": "cosin", "epochs": 9}, "did you mean 'cosine'"),
        ({"after": {"name": "step", "boundary": [3]}}, "did you mean 'boundaries'"),
        ({"after": "cosine"}, "pass epochs="),
        ({"epochs": 5}, "is not over when"),
        ({"after": {"floor": 0.1}}, "has no name"),
        ({"scale": "linea", "epochs": 9}, "did you mean 'linear'"),
        ({"steps_per_epoch": 0, "epochs": 9}, "len(train)"),
        ({"batch_size": 0, "epochs": 9}, "batch_size"),
        ({"base_lr": -1.0, "epochs": 9}, "base_lr"),
        ({"warmup_epochs": float("nan"), "epochs": 9}, "warmup_epochs"),
        ({"base_batch_size": 0, "epochs": 9}, "base_batch_size"),
    ],
)
def test_mistakes(wrong, says):
    arguments = {"base_lr": 0.1, "base_batch_size": 32, "batch_size": 32, "steps_per_epoch": 10, **wrong}
    with pytest.raises(UsageError, match=says.replace("(", r"\(").replace(")", r"\)")):
        large_batch(**arguments)


def test_scale():
    assert scale(256, 8192) == 32 and scale(256, 1024, "sqrt") == 2 and scale(256, 8192, "none") == 1


def test_the_optimizer_and_the_schedule_count_the_same_accumulation():
    schedule = large_batch(0.1, 32, 32, 10, accumulation=4, epochs=9)
    with pytest.raises(UsageError, match="accumulation=2"):
        hvd.DistributedOptimizer(keras.optimizers.SGD(schedule), backward_passes_per_step=2)
    hvd.DistributedOptimizer(keras.optimizers.SGD(schedule, gradient_accumulation_steps=4))


def test_in_the_graph_the_optimizer_steps_with_these_rates():
    """With gradient 1 the weight is minus the sum of the rates, under accumulation too."""
    for accumulation in (1, 3):
        schedule = large_batch(0.1, 32, 32, 6, 1, "cosine", epochs=4, accumulation=accumulation, size=2)
        steps = None if accumulation == 1 else accumulation
        sgd = hvd.DistributedOptimizer(keras.optimizers.SGD(schedule, gradient_accumulation_steps=steps))
        weight = keras.Variable(0.0)
        sgd.build([weight])
        for _ in range(18):
            sgd.apply([keras.ops.ones(())], [weight])
        rates = [float(schedule(s)) for s in range(accumulation - 1, 18, accumulation)]
        assert float(weight.numpy()) == pytest.approx(-np.sum(rates), rel=1e-5)


def _model(steps, batch):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    schedule = large_batch(0.1, 32, batch, steps, 1, "cosine", epochs=6, size=2)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(schedule, momentum=0.9)), "mse")
    return model


def test_a_checkpoint_brings_the_rates_back(tmp_path):
    """To the last bit with as many steps in an epoch; at the same epoch with others, also the second time."""
    x = np.ones((24 * 4, 2), "float32")
    model = _model(24, 32)
    model.fit(x, x[:, :1], batch_size=4, epochs=2, verbose=0)
    hvd.checkpoint.save(model, tmp_path / "a", step=48)
    same, half = _model(24, 32), _model(12, 64)
    for other in (same, half):
        assert hvd.checkpoint.restore(other, tmp_path / "a").step == 48
    rates = lambda m: [float(m.optimizer._learning_rate(s)) for s in range(48, 96)]
    assert rates(same) == rates(model)
    assert float(half.optimizer.learning_rate) == float(np.float32(2) * np.float32(model.optimizer.learning_rate))
    half.fit(x[:48], x[:48, :1], batch_size=4, verbose=0)  # an epoch of 12 steps
    hvd.checkpoint.save(half, tmp_path / "b", step=60)
    again = _model(24, 32)
    hvd.checkpoint.restore(again, tmp_path / "b")
    assert float(again.optimizer._learning_rate.epoch(60)) == 3.0
