"""An optimizer's learning rate: setting it in the middle of a training, and resuming with a schedule."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import optimizers_of
from hvdkit.keras_internals.optimizers import schedule_of, unwrap, velocities
from hvdkit.utils.log import get_logger


def check_settable(optimizer: Any) -> None:
    """Refuse an optimizer whose learning rate is no variable, before the first step.

    Args:
        optimizer: what ``model.optimizer`` is; None for a model that was compiled without one.

    Raises:
        UsageError: it has a ``LearningRateSchedule`` or a function as its rate, or several optimizers inside.
    """
    if optimizer is None:
        raise UsageError(
            "The model has no optimizer whose learning rate could be set.",
            fix="compile the model with an optimizer: model.compile(hvd.DistributedOptimizer(...), ...).",
        )
    name = type(optimizer).__name__
    if hasattr(optimizer, "optimizers"):  # a MultiOptimizer
        raise UsageError(
            f"The model is trained by several optimizers (a {name}): it has no one learning rate to set.",
            fix="give each of them a keras.optimizers.schedules.LearningRateSchedule, without this callback.",
        )
    if not isinstance(optimizer.learning_rate, keras.Variable):
        raise UsageError(
            f"The learning rate of {name} ({optimizer.name}) is a schedule or a function, which cannot be set.",
            fix="give the optimizer a number as its learning rate, or leave this callback out.",
        )


def set_learning_rate(optimizer: Any, rate: float, *, momentum_correction: bool) -> None:
    """Set the rate; with ``momentum_correction`` bring the velocities of momentum to the new rate.

    The velocity of SGD, LARS and RMSprop is a sum of ``rate * step``: after a change of the rate it goes on with steps
    of the old size. Multiplied by ``new / old`` it is what it would be, had its steps been made with the new rate. The
    velocity *variables* are scaled: ``optimizer.momentum`` is a number that Keras has built into the compiled step,
    where a new value never arrives. The slots of other optimizers (Adam, Lion, Muon) hold no rate and stay as they are.

    Args:
        optimizer: with a variable as its learning rate; distributed, or inside a ``LossScaleOptimizer``, or not.
        rate: the new learning rate.
        momentum_correction: scale the velocities.

    Example:

    >>> sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    >>> sgd.build([keras.Variable([1.0])])
    >>> sgd.momentums[0].assign([2.0]) is not None
    True
    >>> set_learning_rate(sgd, 0.2, momentum_correction=True)
    >>> float(sgd.learning_rate), float(sgd.momentums[0][0])
    (0.20000000298023224, 4.0)
    """
    before = float(optimizer.learning_rate)
    optimizer.learning_rate = rate
    after = float(optimizer.learning_rate)  # rounded to the variable's dtype, as the step will see it
    # A velocity gathered at rate 0 holds nothing that could be scaled.
    if not momentum_correction or before in (0.0, after):
        return
    for velocity in velocities(optimizer):
        velocity.assign(velocity * (after / before))


def check_accumulation(optimizer: Any) -> None:
    """Refuse a schedule that was made for another number of accumulated steps than the optimizer accumulates.

    Raises:
        UsageError: its rate would be that of another batch.
    """
    counted = getattr(schedule_of(optimizer), "accumulation", None)
    steps = unwrap(optimizer).gradient_accumulation_steps or 1
    if counted not in (None, steps):
        raise UsageError(
            f"The learning rate schedule counts on {counted} accumulated steps for an update, and the optimizer "
            f"accumulates {steps}: its rate would be that of another batch.",
            fix=f"hvd.schedules.large_batch(..., accumulation={steps}).",
        )


def rates_of(model: keras.Model) -> list:
    """The learning rates of a model's optimizers; None for a schedule or a function."""
    rates = [getattr(optimizer, "learning_rate", None) for optimizer in optimizers_of(model)]
    return [float(rate) if isinstance(rate, keras.Variable) else None for rate in rates]


def set_rates(model: keras.Model, rates: list) -> None:
    """Set the rates that ``rates_of`` returned."""
    for optimizer, rate in zip(optimizers_of(model), rates, strict=False):
        if rate is not None and isinstance(optimizer.learning_rate, keras.Variable):
            optimizer.learning_rate = rate


def check_steps(optimizers: list, steps: int | None) -> None:
    """Warn about a schedule that was made for another number of steps in an epoch than there are."""
    for schedule in map(schedule_of, optimizers):
        made_for = getattr(schedule, "steps_per_epoch", None)
        if None not in (made_for, steps) and made_for != steps:
            get_logger().warning(
                "The learning rate schedule counts on %g steps in an epoch, and this training makes %d: its epochs are "
                "not those of the training. Pass steps_per_epoch=%d.",
                made_for,
                steps,
                steps,
            )
