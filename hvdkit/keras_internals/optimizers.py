"""What a Keras optimizer keeps, and the steps of its update, by plain names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from hvdkit.keras_internals import attributes


def unwrap(optimizer: Any) -> Any:
    """The optimizer inside a ``LossScaleOptimizer``; any other is itself.

    >>> adam = keras.optimizers.Adam()
    >>> unwrap(keras.optimizers.LossScaleOptimizer(adam)) is adam, unwrap(adam) is adam
    (True, True)
    """
    return getattr(optimizer, "inner_optimizer", optimizer)


def trainable_variables(optimizer: Any) -> list:
    """The variables that an optimizer was built with; none before that."""
    return optimizer._trainable_variables


def variable_index(optimizer: Any, variable: Any) -> int:
    """The place of a variable among those that the optimizer was built with, and of its slots."""
    return optimizer._get_variable_index(variable)


def variable_indices(optimizer: Any, variables: Sequence) -> list[int]:
    """The places of several."""
    return [optimizer._get_variable_index(variable) for variable in variables]


def step_counter(optimizer: Any) -> Any:
    """The variable that counts the calls of ``apply``: with accumulated gradients several for each update, of which
    ``optimizer.iterations`` is the number."""
    return optimizer._iterations


def steps_taken(optimizer: Any) -> int:
    """How often ``apply`` was called."""
    return int(step_counter(optimizer).numpy())


def schedule_of(optimizer: Any) -> Any:
    """The optimizer's ``LearningRateSchedule``; None where it has a number or a function."""
    rate = getattr(unwrap(optimizer), "_learning_rate", None)
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def velocities(optimizer: Any) -> list:
    """The slots that are sums of ``rate * step``; none without momentum, and none before the optimizer is built."""
    inner = unwrap(optimizer)
    if isinstance(inner, keras.optimizers.SGD) or attributes.velocity_holds_rate(inner):
        slots = getattr(inner, "momentums", [])
    elif isinstance(inner, keras.optimizers.RMSprop):
        slots = getattr(inner, "_momentums", [])
    else:
        slots = []
    return [slot for slot in slots if slot is not None]


def slots(optimizer: Any) -> list[tuple[Any, Any]]:
    """What an optimizer keeps for each variable that it was built with, as pairs of the variable and the slot.

    Keras keeps each kind of slot as a list parallel to these variables.
    """
    state, trained = vars(unwrap(optimizer)), trainable_variables(unwrap(optimizer))
    kinds = [kind for name, kind in state.items() if isinstance(kind, list) and name not in _NO_SLOTS]
    pairs = [pair for kind in kinds if len(kind) == len(trained) for pair in zip(trained, kind, strict=True)]
    return [(variable, slot) for variable, slot in pairs if isinstance(slot, keras.Variable)]


_NO_SLOTS = ("_variables", "_trainable_variables")


def gradient_accumulators(optimizer: Any) -> list:
    """The gradients that wait for the last of the accumulated steps; none where nothing accumulates."""
    return list(getattr(optimizer, "_accumulated_gradients", None) or ())


def add_gradient_accumulators(optimizer: Any) -> None:
    """Let a built optimizer accumulate from here on, as ``build`` does where it accumulates from the beginning."""
    optimizer._accumulated_gradients = [
        optimizer.add_variable_from_reference(variable, name="gradient_accumulator")
        for variable in trainable_variables(optimizer)
    ]


def accumulators_of(optimizer: Any, variables: Sequence) -> list:
    """The accumulators of these variables."""
    return [optimizer._accumulated_gradients[number] for number in variable_indices(optimizer, variables)]


def accumulate(optimizer: Any, gradients: list, accumulators: list) -> None:
    """Add gradients to the accumulators."""
    optimizer._backend_increment_gradient_accumulators(gradients, accumulators)


def reset_accumulators(optimizer: Any) -> None:
    """Begin to accumulate anew."""
    optimizer._backend_reset_gradient_accumulators()


def clip(optimizer: Any, gradients: list) -> list:
    """Clip gradients as the optimizer was told to."""
    return optimizer._clip_gradients(gradients)


def decay(optimizer: Any, variables: list) -> None:
    """Let these variables decay by the optimizer's ``weight_decay``."""
    optimizer._apply_weight_decay(variables)


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether ``exclude_from_weight_decay`` left this variable to decay."""
    return optimizer._use_weight_decay(variable)


def update(optimizer: Any, gradients: list, variables: list, rate: Any) -> None:
    """Update variables, one by one, by gradients that are clipped already."""
    optimizer._backend_update_step(gradients, variables, rate)


def moving_averages(optimizer: Any) -> list:
    """The averages of the weights of a built optimizer with ``use_ema``, parallel to ``trainable_variables``."""
    return optimizer._model_variables_moving_average


def update_moving_averages(optimizer: Any) -> None:
    """Let the averages of the weights follow them by a step."""
    optimizer._update_model_variables_moving_average(trainable_variables(optimizer))


def overwrite_with_averages(optimizer: Any) -> None:
    """Put the averages of the weights in the weights' place."""
    optimizer._overwrite_model_variables_with_average_value(trainable_variables(optimizer))


def overwrites_with_gradient(optimizer: Any, variable: Any) -> bool:
    """Whether a variable is given its gradient as its value, as the scales of float8 are."""
    return optimizer._overwrite_variable_with_gradient(variable)


def strategy_of(optimizer: Any) -> Any:
    """The ``tf.distribute`` strategy under which an optimizer was made."""
    return optimizer._distribution_strategy
