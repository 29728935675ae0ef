"""The learning rate over a training, as pure numbers: what the schedule computes and what the command line prints."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hvdkit.errors import UsageError
from hvdkit.schedules.formula.decay import DECAYS
from hvdkit.utils.numbers import plain, real
from hvdkit.utils.registry import suggestion

_GIVEN = ("epoch", "ops", "begin", "end")


@dataclass(frozen=True)
class WarmupThenDecay:
    """A gradual warm-up from one rate to another, then a curve.

    Args:
        base_lr: the rate before the first update.
        peak_lr: the rate after the warm-up.
        warmup_epochs: the length of the warm-up, in which the rate rises by the same amount in each update.
        decay: the name of a curve in ``DECAYS``, or None if the schedule has its own curve.
        epochs: the epoch at which the curve ends; required by curves that have an end.
        arguments: the arguments of the curve.

    Raises:
        UsageError: a number is not valid, the curve is unknown, or it requires ``epochs``.

    Example:

    >>> recipe = WarmupThenDecay(0.1, 0.8, warmup_epochs=5, decay="cosine", epochs=90)
    >>> [round(float(recipe.rate(epoch)), 6) for epoch in (0, 2.5, 5, 47.5, 90)]
    [0.1, 0.45, 0.8, 0.4, 0.0]
    """

    base_lr: float
    peak_lr: float
    warmup_epochs: float = 5.0
    decay: str | None = "cosine"
    epochs: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("base_lr", "peak_lr", "warmup_epochs"):
            value = plain(getattr(self, name))
            if value is None or not np.isfinite(value) or value < 0:
                raise UsageError(f"`{name}` must be a number of at least 0. Received: {name}={getattr(self, name)!r}.")
            object.__setattr__(self, name, float(value))  # NumPy's numbers have no place in a saved model
        if self.epochs is not None:
            object.__setattr__(self, "epochs", float(real(self.epochs, "epochs")))
        if self.decay is None:
            return
        curve = DECAYS.resolve(self.decay)
        parameters = inspect.signature(curve).parameters
        known = [name for name in parameters if name not in _GIVEN]
        for name in self.arguments:
            if name not in known:
                takes = f"it takes {', '.join(known)}." if known else "it takes no arguments."
                raise UsageError(
                    f"The decay {self.decay!r} has no argument {name!r}.", fix=suggestion(name, known) or takes
                )
        if self.epochs is None and "None" not in str(parameters["end"].annotation):
            raise UsageError(
                f"decay={self.decay!r} depends on the end of the training, which is not known.",
                fix='pass epochs=, as to model.fit; or decay="constant".',
            )
        if self.epochs is not None and self.epochs <= self.warmup_epochs:
            raise UsageError(
                f"The warm-up of {self.warmup_epochs:g} epochs is not over when the training of {self.epochs:g} is.",
                fix="make warmup_epochs smaller; 5 of 90 epochs is the original.",
            )

        try:
            with np.errstate(all="ignore"):
                ends = self.rate(np.array([self.warmup_epochs, self.epochs or self.warmup_epochs]))
        except (TypeError, ValueError) as error:
            raise UsageError(f"The decay {self.decay!r} cannot do with {self.arguments}: {error}.") from error
        if not np.all(np.isfinite(ends)):
            raise UsageError(f"The decay {self.decay!r} with {self.arguments} goes from {ends[0]:g} to {ends[1]:g}.")

    @functools.cached_property
    def _curve(self) -> Callable:
        return functools.partial(
            DECAYS.resolve(self.decay), begin=self.warmup_epochs, end=self.epochs, **self.arguments
        )

    def rate(self, epoch: Any, ops: Any = np, fraction: Any = None) -> Any:
        """The learning rate of an update.

        Args:
            epoch: how many epochs were made before it, with fractions; a number or an array.
            ops: what computes: NumPy or ``keras.ops``.
            fraction: of the peak, where the curve is not the own one of this.

        Returns:
            As ``epoch``: a number or an array.
        """
        epoch = ops.asarray(epoch, dtype="float64") if ops is np else epoch
        decayed = self.peak_lr * (self._curve(epoch, ops) if fraction is None else fraction)
        if not self.warmup_epochs:
            return decayed
        rising = self.base_lr + (self.peak_lr - self.base_lr) * (epoch / self.warmup_epochs)
        return ops.where(epoch < self.warmup_epochs, rising, decayed)
