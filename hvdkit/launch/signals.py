"""The signals that ``hvdkit run`` collects, and what each asks for: to save and leave, or merely to leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType

# What a scheduler sends before it takes the machine away: SIGTERM, or SIGUSR1 (`sbatch --signal=B:USR1@120`).
PREEMPTIONS = (signal.SIGTERM, signal.SIGUSR1)
_COLLECTED = (signal.SIGINT, signal.SIGHUP, *PREEMPTIONS)


class Signals:
    """Collects SIGINT, SIGTERM, SIGHUP and SIGUSR1 while a run is on, and puts the old handlers back at its end.

    ``received`` holds them in their order; whoever acts on them looks there from time to time.

    Example::

        with Signals() as signals:
            code = supervise(plan, signals)
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._old: dict[int, object] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python takes handlers nowhere else
            self._old = {number: signal.signal(number, self._note) for number in _COLLECTED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @property
    def preempted(self) -> bool:
        """Whether all that came were preemptions: nobody has asked for an end without saving."""
        return bool(self.received) and all(number in PREEMPTIONS for number in self.received)

    @property
    def name(self) -> str:
        """The first one, as a user knows it."""
        number = signal.Signals(self.received[0])
        return "Ctrl-C" if number == signal.SIGINT else number.name

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
