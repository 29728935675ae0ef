"""Learning rates that are Horovod's to the last bit, and momentum correction that reaches the compiled step."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import hvdkit as hvd
from hvdkit.comm import world
from tests import machine
from tests.callbacks.linear import Rates, linear, xy

callbacks = hvd.callbacks


@pytest.fixture(autouse=True)
def alone():
    hvd.init()


@pytest.fixture
def float64():
    """Learning rates and weights of float64, so that a last bit can be compared."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


# ------------------------------------------------------------------------------------------------------------- rates


def _schedules(module):
    """Each callback twice: ours by Horovod's arguments, and Horovod's own."""
    return {
        "constant": module.schedule(0.3, 0.7, start_epoch=1, end_epoch=4),
        "constant by step": module.schedule(0.3, 0.7, start_epoch=2, staircase=False),
        "function": module.schedule(0.3, lambda epoch: 0.1 ** (epoch // 2)),
        "function by step": module.schedule(0.3, lambda epoch: 1 / (1 + epoch), staircase=False, steps_per_epoch=9),
        "warm-up": module.warmup(0.7, warmup_epochs=3),
        "warm-up, steps given": module.warmup(0.7, 2, steps_per_epoch=11),
    }


def _rates(callback, read, epochs=5, steps=7) -> list:
    """Drive a callback as fit does; the rate before each step and what the logs say."""
    callback.params = {"steps": steps, "epochs": epochs}
    callback.on_train_begin()
    seen = []
    batch_begin = getattr(callback, "on_batch_begin" if not hasattr(callback, "set_model") else "on_train_batch_begin")
    for epoch in range(epochs):
        callback.on_epoch_begin(epoch)
        for batch in range(steps):
            batch_begin(batch)
            seen.append(read())
        logs = {}
        callback.on_epoch_end(epoch, logs)
        seen.append(logs["lr"])
    return seen


@pytest.mark.parametrize("size", [1, 3, 8])
def test_rates_are_horovods_to_the_last_bit(float64, monkeypatch, size):
    original = pytest.importorskip("horovod._keras.callbacks", exc_type=ImportError)
    monkeypatch.setattr(original, "hvd", SimpleNamespace(size=lambda: size, rank=lambda: 0))
    monkeypatch.setattr(world, "size", lambda: size)
    ours = SimpleNamespace(schedule=callbacks.LearningRateScheduleCallback, warmup=callbacks.LearningRateWarmupCallback)
    backend = SimpleNamespace(
        get_value=lambda cell: cell["rate"], set_value=lambda cell, value: cell.update(rate=float(value))
    )
    theirs = SimpleNamespace(
        schedule=lambda *a, **kw: original.LearningRateScheduleCallbackImpl(backend, *a, **kw),
        warmup=lambda *a, **kw: original.LearningRateWarmupCallbackImpl(backend, *a, **kw),
    )
    expected = _schedules(theirs)
    for name, callback in _schedules(ours).items():
        model = linear(keras.optimizers.SGD(0.5))
        callback.set_model(model)
        cell = {"rate": 0.5}
        expected[name].model = SimpleNamespace(optimizer=SimpleNamespace(lr=cell))
        mine = _rates(callback, lambda model=model: float(model.optimizer.learning_rate))
        assert mine == _rates(expected[name], lambda cell=cell: cell["rate"]), name
        assert size == 1 or len(set(mine)) > 2


def test_warmup_ends_at_the_rate_where_steps_run_together(float64, monkeypatch):
    monkeypatch.setattr(world, "size", lambda: 4)
    model = linear(keras.optimizers.SGD(0.1), steps_per_execution=2)
    rates = Rates()
    warmup = callbacks.LearningRateWarmupCallback(0.8, warmup_epochs=2)
    history = model.fit(*xy(), batch_size=4, epochs=3, verbose=0, callbacks=[warmup, rates]).history
    expected = [0.8 / 4 * (3 * (step + 1) / 12 + 1) for step in range(0, 12, 2)] + [0.8] * 3
    np.testing.assert_allclose(rates.seen, expected, rtol=1e-14)
    np.testing.assert_allclose(history["lr"], [expected[2], 0.8, 0.8], rtol=1e-14)


def test_warmup_then_schedule(float64, monkeypatch):
    monkeypatch.setattr(world, "size", lambda: 4)
    model = linear(keras.optimizers.SGD(0.1))
    both = [
        callbacks.LearningRateWarmupCallback(0.8, warmup_epochs=1),
        callbacks.LearningRateScheduleCallback(0.8, 0.5, start_epoch=1),
    ]
    history = model.fit(*xy(), batch_size=6, epochs=4, verbose=0, callbacks=both).history
    np.testing.assert_allclose(history["lr"], [0.8, 0.8, 0.4, 0.2], rtol=1e-14)


# ------------------------------------------------------------------------------------------------ momentum correction

STEPS, BATCH, MOMENTUM, RATE = 8, 3, 0.9, 0.02
CHANGES = {0: 1.0, 3: 4.0, 5: 0.5}  # from this step on, this multiple of the rate


def _multiplier(epoch: float) -> float:
    return CHANGES[max(step for step in CHANGES if step <= round(epoch * STEPS))]


def _reference(weights, x, y, *, kind: str, corrected: bool) -> np.ndarray:
    """Momentum in NumPy. Corrected means that the velocity holds no rate: ``u = m u + step; w -= rate u``, which is
    equation (9) of the paper; uncorrected that it holds the rates of its time: ``v = m v + rate step; w -= v``."""
    w, velocity, squares = weights.copy(), np.zeros_like(weights), np.zeros_like(weights)
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        gradient = 2 / BATCH * x[rows].T @ (x[rows] @ w - y[rows])
        if kind == "rmsprop":
            squares = 0.9 * squares + 0.1 * gradient**2
            gradient = gradient / np.sqrt(squares + 1e-7)
        rate = RATE * _multiplier(step / STEPS)
        inside, outside = (1, rate) if corrected else (rate, 1)
        velocity = MOMENTUM * velocity + inside * gradient
        w -= outside * (MOMENTUM * velocity + inside * gradient if kind == "nesterov" else velocity)
    return w


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(RATE, momentum=MOMENTUM),
    "nesterov": lambda: keras.optimizers.SGD(RATE, momentum=MOMENTUM, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(RATE, momentum=MOMENTUM),
    "sgd distributed": lambda: hvd.DistributedOptimizer(keras.optimizers.SGD(RATE, momentum=MOMENTUM)),
    "sgd loss-scaled": lambda: keras.optimizers.LossScaleOptimizer(OPTIMIZERS["sgd distributed"]()),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_correction_reaches_the_compiled_step(float64, name):
    x, y = xy(STEPS * BATCH)
    results = {}
    for corrected in (True, False):
        keras.utils.set_random_seed(1)
        model = linear(OPTIMIZERS[name](), run_eagerly=False)
        before = np.asarray(model.get_weights()[0])
        schedule = callbacks.LearningRateScheduleCallback(
            RATE, _multiplier, staircase=False, momentum_correction=corrected
        )
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[schedule])
        expected = _reference(before, x, y, kind=name.split()[0], corrected=corrected)
        results[corrected] = model.get_weights()[0]
        np.testing.assert_allclose(results[corrected], expected, rtol=0, atol=1e-6)
    assert np.abs(results[True] - results[False]).max() > 1e-2, "the correction makes no difference here"


def test_only_a_velocity_that_holds_the_rate_is_scaled():
    rate_zero = {"before": 0.0, "after": 0.1}
    for optimizer, before, after in (
        (keras.optimizers.Adam(0.1), 0.1, 0.2),
        (keras.optimizers.Muon(0.1), 0.1, 0.2),
        (keras.optimizers.SGD(rate_zero["before"], momentum=0.9), *rate_zero.values()),
        (keras.optimizers.SGD(0.1), 0.1, 0.2),
    ):
        model = linear(optimizer)
        model.optimizer.build(model.trainable_variables)
        slots = [v for v in optimizer.variables if v.shape == (3, 1)]
        for slot in slots:
            slot.assign(np.ones((3, 1)))
        schedule = callbacks.LearningRateScheduleCallback(1.0, lambda epoch, after=after: after)
        schedule.set_model(model)
        schedule.on_train_batch_begin(0)
        assert float(optimizer.learning_rate) == pytest.approx(after) != before
        assert all((np.asarray(slot) == 1).all() for slot in slots)
        assert slots or isinstance(optimizer, keras.optimizers.SGD)


def test_what_a_schedule_cannot_do_is_said():
    schedule = callbacks.LearningRateScheduleCallback
    with pytest.raises(hvd.errors.UsageError, match=r"initial_lr=None.*\n.*hvd\.size"):
        schedule(None, 0.5)
    with pytest.raises(hvd.errors.UsageError, match=r"warmup_epochs=2\.5"):
        callbacks.LearningRateWarmupCallback(0.1, 2.5)
    x, y = xy(6)
    for rate in (keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9), lambda: 0.1):
        with pytest.raises(hvd.errors.UsageError, match=r"SGD \(.*cannot be set.*\n.*a number"):
            linear(keras.optimizers.SGD(rate)).fit(x, y, verbose=0, callbacks=[schedule(0.1, 0.5)])
    endless = tf.data.Dataset.from_tensor_slices((x, y)).batch(3).filter(lambda *_: True)
    with pytest.raises(hvd.errors.UsageError, match=r"how many steps.*\n.*steps_per_epoch="):
        linear("sgd").fit(endless, verbose=0, callbacks=[callbacks.LearningRateWarmupCallback(0.1)])


def test_several_optimizers_have_no_one_rate():
    machine.needs_multi_optimizer()
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1)))
    schedule = callbacks.LearningRateScheduleCallback(0.1, 0.5)
    with pytest.raises(hvd.errors.UsageError, match="several optimizers"):
        linear(several).fit(*xy(6), verbose=0, callbacks=[schedule])
