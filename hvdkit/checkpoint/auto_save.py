"""How often to ask the other ranks whether one was told to end, and how often to save automatically."""

from __future__ import annotations

import time

# The ranks ask one another about this often.
ASK_SECONDS = 1.0
_MOST_CALLS = 100
# What saving may cost, of the time of a step; and how long after the beginning, and after one another, at the least.
COST = 0.03
FIRST_SECONDS, LEAST_SECONDS = 60.0, 20.0


class AutoSaveInterval:
    """Times steps, with and without a checkpoint on its way.

    What follows from it must be the same on every rank, so it follows from numbers that were exchanged (``update``).

    Attributes:
        is_due: whether it is time for a checkpoint, at this very step.
    """

    def __init__(self) -> None:
        self.is_due = False
        self._calls = self._asked = 0
        self._interval = 1
        self._window = time.monotonic(), 0  # since the ranks asked last
        self._last: tuple[float, int] | None = None
        self._seconds, self._steps = [0.0, 0.0], [0, 0]  # without and with a checkpoint on its way
        self._saved = time.monotonic()
        self._cost: float | None = None
        self._waited = self._took = 0.0

    def step(self, step: int, *, busy: bool, took: float) -> None:
        """Between two steps: how many there were so far, whether a checkpoint was on its way, how long one took."""
        now = time.monotonic()
        self.is_due = False
        self._calls += 1
        self._took = took
        if self._last is not None and self._calls > 3:  # the first ones are traced and compiled
            self._seconds[busy] += now - self._last[0]
            self._steps[busy] += step - self._last[1]
        self._last = now, step

    def saved(self, waited: float) -> None:
        """A checkpoint has begun; training waited so many seconds for its copy."""
        self._saved, self._waited = time.monotonic(), waited
        self._seconds[True], self._steps[True] = 0.0, 0
        self._cost = waited
        self._last = None

    @property
    def should_exchange(self) -> bool:
        """Whether the ranks exchange what they know now; the same on every rank."""
        return self._calls - self._asked >= self._interval

    def measured(self) -> dict[str, float | None]:
        """What the others must know of this rank."""
        step = self._seconds[False] / self._steps[False] if self._steps[False] else 0.0
        slower = max(0.0, self._seconds[True] - step * self._steps[True]) if step else 0.0
        cost = None if self._cost is None else self._waited + slower
        calls = self._calls - self._window[1]
        call = (time.monotonic() - self._window[0]) / calls if calls else 0.0
        return {"call": call, "age": time.monotonic() - self._saved, "cost": cost, "took": self._took}

    def update(self, measurements: list[dict]) -> None:
        """Follow what all ranks know: when to ask again, and whether it is time for a checkpoint.

        >>> interval = AutoSaveInterval()
        >>> interval.update([{"call": 0.01, "age": 90.0, "cost": None, "took": 0.0}])
        >>> interval.is_due, interval._interval
        (True, 2)
        >>> interval.update([{"call": 0.01, "age": 90.0, "cost": 6.0, "took": 2.0}])  # 6 s are 3 % of 200 s
        >>> interval.is_due
        False
        """
        self._asked = self._calls
        slowest = max(m["call"] for m in measurements)
        wanted = round(ASK_SECONDS / slowest) if slowest else 1
        self._interval = min(_MOST_CALLS, 2 * self._interval, max(1, wanted))  # steps may become slower at any time
        self._window = time.monotonic(), self._calls
        costs = [m["cost"] for m in measurements if m["cost"] is not None]
        takes = [m["took"] for m in measurements]
        least = max(LEAST_SECONDS, *takes, *(cost / COST for cost in costs)) if costs else FIRST_SECONDS
        self.is_due = max(m["age"] for m in measurements) >= least
