"""The signals that ``hvdkit run`` collects, and what each asks for: to save and leave, or merely to leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from hvdkit.errors import REQUEUE_EXIT_CODE

# What a scheduler sends before it takes the machine away: SIGTERM, or SIGUSR1 (`sbatch --signal=B:USR1@120`).
PREEMPTIONS = (signal.SIGTERM, signal.SIGUSR1)
_COLLECTED = (signal.SIGINT, signal.SIGHUP, *PREEMPTIONS)


class Signals:
    """Collects SIGINT, SIGTERM, SIGHUP and SIGUSR1 while a run is on, and puts the old handlers back at its end.

    ``received`` holds them in their order; whoever acts on them looks there from time to time. Inside another one that
    collects already, as the command line's, it has what that one has.

    Example::

        with Signals() as signals:
            code = supervise(plan, signals)
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._old: dict[int, object] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python takes handlers nowhere else
            outer = getattr(signal.getsignal(_COLLECTED[0]), "__self__", None)
            if isinstance(outer, Signals):
                self.received = outer.received
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
            wanted = [number for number in _COLLECTED if not (ignored and number == signal.SIGHUP)]
            self._old = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old.clear()

    @property
    def preempted(self) -> bool:
        """Whether all that came were preemptions: an end without saving was not asked for."""
        return bool(self.received) and all(number in PREEMPTIONS for number in self.received)

    @property
    def name(self) -> str:
        """The first one, as a user knows it."""
        number = signal.Signals(self.received[0])
        return "Ctrl-C" if number == signal.SIGINT else number.name

    @property
    def code_before_training(self) -> int:
        """The exit code of a job that got them before its training began: 75 where it is to be started again."""
        return REQUEUE_EXIT_CODE if self.preempted else 128 + self.received[0]

    @property
    def before_training(self) -> str:
        """The message about such a job."""
        again = ": nothing is lost, and the job should be started again" if self.preempted else ""
        return f"hvdkit: ended by {self.name} before the training began{again} (exit code {self.code_before_training})."

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)


def leave() -> int | None:
    """Give the handlers back that a ``Signals`` around this call has replaced.

    Returns:
        The exit code, where a signal came before: nothing has been started yet.
    """
    collecting = getattr(signal.getsignal(_COLLECTED[0]), "__self__", None)
    if not isinstance(collecting, Signals):
        return None
    collecting.__exit__()
    return collecting.code_before_training if collecting.received else None
