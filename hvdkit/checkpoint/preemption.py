"""Preemption: by a signal, or because the time limit is reached."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import weakref
from types import FrameType
from typing import Any

from hvdkit.errors import REQUEUE_EXIT_CODE
from hvdkit.utils.numbers import seconds_of

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """The training was saved and should be started again; the process exits with ``REQUEUE_EXIT_CODE`` (75).

    Example:

    >>> Preempted("SIGTERM").code
    75
    """

    def __init__(self, why: str):
        super().__init__(REQUEUE_EXIT_CODE)
        self.why = why


class Preemption:
    """Takes down SIGTERM, SIGUSR1 and the end of the time, for somebody to look at between two steps.

    Args:
        model: whose ``fit`` looks. Once that has been left, by an exception too, a signal does what it did before.
        max_time: seconds, or ``"3:50:00"``; None is no limit.
    """

    def __init__(self, model: Any, max_time: float | str | None = None):
        self._model = weakref.ref(model)
        self._seconds = seconds_of(max_time)
        self._begin = time.monotonic()
        self._received: str | None = None
        self._old: dict[int, Any] = {}
        self._ends = False

    def watch(self) -> None:
        """Take the signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._old[number] = signal.signal(number, self._note)

    def stop(self) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            with contextlib.suppress(TypeError):  # a handler that was not set from Python
                signal.signal(number, handler)
        self._old.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number).name
        if not self._ends and not _in_fit(frame, self._model()):
            self.stop()
            os.kill(os.getpid(), number)

    def end(self) -> None:
        """This process ends in order now: from here on a signal has nothing more to say."""
        self._ends = True

    @property
    def why(self) -> str | None:
        """Why this process should end; None where it should not."""
        if self._received is None and self._seconds is not None and time.monotonic() - self._begin > self._seconds:
            return "max_time"
        return self._received


def _in_fit(frame: FrameType | None, model: Any) -> bool:
    """Whether the main thread is somewhere in a model's ``fit``: a callback is not told that it was left."""
    while frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False
