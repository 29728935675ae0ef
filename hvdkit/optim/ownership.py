"""Whether a model holds what its train step trains with: what it does not hold is not saved, sent or compared."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras

from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import backend_variable, optimizers_of, weights_of
from hvdkit.keras_internals.optimizers import unwrap

_step = threading.local()  # a strategy's replicas are threads


@contextlib.contextmanager
def step_of(model: keras.Model) -> Iterator[None]:
    """Inside, this model's train step is made or traced."""
    before, _step.model, _step.checked = getattr(_step, "model", None), model, set()
    try:
        yield
    finally:
        _step.model = before


def check_ownership(optimizer: Any, variables: Any) -> None:
    """Refuse an optimizer, or variables of it, that the model of this step does not hold.

    Raises:
        UsageError: naming the optimizer, or the variable.
    """
    model = getattr(_step, "model", None)
    if model is None or id(optimizer) in _step.checked:
        return
    _step.checked.add(id(optimizer))
    name = f"{type(optimizer).__name__} ({optimizer.name})"
    if not any(optimizer in (o, unwrap(o)) for o in optimizers_of(model)):
        raise UsageError(
            f"The train step of {model.name} applies the optimizer {name}, which the model does not hold: its state "
            "would be neither sent to the other ranks nor compared nor saved.",
            fix="hold it as an attribute of the model, or in a list or a dictionary that is one: "
            "self.my_optimizer = hvd.DistributedOptimizer(...).",
        )
    known = {id(backend_variable(v)) for v in weights_of(model)}
    for variable in variables or ():
        if id(backend_variable(variable)) not in known:
            raise UsageError(
                f"The train step of {model.name} trains {getattr(variable, 'path', variable.name)} by the optimizer "
                f"{name}, and the model does not hold that variable: it would be neither sent to the other ranks nor "
                "compared nor saved.",
                fix="hold the layer or the variable as an attribute of the model, or in a list or a dictionary that is "
                "one.",
            )
