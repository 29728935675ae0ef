"""Which checkpoints to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hvdkit.errors import UsageError
from hvdkit.utils.deprecation import warn_deprecated
from hvdkit.utils.numbers import plain, whole


@dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints to keep. A checkpoint is kept if any of the rules keeps it.

    Args:
        last: how many of the newest to keep.
        every: keep each step that is a multiple of this.
        best: how many of the best to keep, by ``state["metrics"][monitor]``.
        monitor: the name of the metric.
        mode: ``"min"`` if lower is better, ``"max"`` if higher is better.

    Raises:
        UsageError: numbers below 0, an unknown mode, or ``best`` without ``monitor``.

    Example:

    >>> losses = {30: 0.5, 20: 0.1, 10: 0.7, 5: 0.9}
    >>> sorted(RetentionPolicy(last=1, every=10).choose([30, 20, 10, 5], lambda step: {}))
    [10, 20, 30]
    >>> best = RetentionPolicy(last=1, best=1, monitor="loss")
    >>> sorted(best.choose([30, 20, 10, 5], lambda step: {"loss": losses[step]}))
    [20, 30]
    """

    last: int = 3
    every: int | None = None
    best: int = 0
    monitor: str | None = None
    mode: str = "min"

    def __post_init__(self):
        for name in ("last", "best", "every"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None and name == "every" else whole(value, name))
        if self.last < 0 or self.best < 0 or (self.every is not None and self.every < 1):
            raise UsageError(f"last and best should be at least 0, and every at least 1. Received: {self}.")
        if self.mode not in ("min", "max"):
            raise UsageError(f"mode should be 'min' or 'max'. Received: {self.mode!r}.")
        if self.best and not self.monitor:
            raise UsageError("To keep the best checkpoints, name the metric they are judged by.", fix="monitor='loss'")

    @classmethod
    def parse(cls, keep: Any) -> RetentionPolicy:
        """A policy from the number of newest checkpoints to keep, or from a policy; None is the default.

        Raises:
            UsageError: it is neither of these.

        Example:

        >>> RetentionPolicy.parse(5).last, RetentionPolicy.parse(None).last
        (5, 3)
        """
        if keep is None or isinstance(keep, cls):
            return keep or cls()
        if not isinstance(plain(keep), int):
            raise UsageError(
                f"`keep` must be a whole number or hvd.checkpoint.RetentionPolicy(...). Received: keep={keep!r}."
            )
        return cls(last=keep)

    @classmethod
    def of(cls, keep: Any) -> RetentionPolicy:
        """``parse``; deprecated."""
        warn_deprecated("RetentionPolicy.of", "RetentionPolicy.parse")
        return cls.parse(keep)

    def choose(self, steps: list[int], metrics: Callable[[int], dict[str, Any]]) -> set[int]:
        """The steps to keep.

        Args:
            steps: the existing steps, newest first.
            metrics: returns the metrics of a step; it is called only if they are needed.
        """
        kept = set(steps[: self.last])
        if self.every:
            kept |= {step for step in steps if step % self.every == 0}
        if self.best:
            scores = {step: metrics(step).get(self.monitor) for step in steps}
            sign = 1 if self.mode == "min" else -1
            known = [step for step in steps if type(scores[step]) in (int, float)]
            kept |= set(sorted(known, key=lambda step: sign * scores[step])[: self.best])
        return kept
