"""A job that failed, or that saved and left, is started again: as a whole, at most so many times.

Horovod's ranks cannot be replaced one by one: a world that has lost a rank is over. So all ranks start again, and
resume from their last checkpoint if the program loads it.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import replace
from typing import BinaryIO

from hvdkit.errors import REQUEUE_EXIT_CODE
from hvdkit.launch import streams
from hvdkit.launch.plan import LaunchPlan
from hvdkit.launch.signals import Signals
from hvdkit.launch.supervise import supervise

# How often the job was started again before: in every rank's environment, "0" at the first start.
RESTART = "HVDKIT_RESTART"
# A machine that is out of order for a while (a full disk, a GPU that resets) should not use up all restarts at once.
_LONGEST_PAUSE = 30.0
_POLL = 0.1


def supervise_with_restarts(
    plan: LaunchPlan, signals: Signals, max_restarts: int, *, stdout: BinaryIO, stderr: BinaryIO
) -> int:
    """Carry out a plan until it ends well, a signal comes, or it was started again ``max_restarts`` times.

    Args:
        plan: what to start; each start gets ``HVDKIT_RESTART`` on top of its variables.
        signals: the signals collected so far; after any of them nothing is started again.
        max_restarts: how many starts there may be after the first.
        stdout, stderr: where the ranks' output goes; each restart is one line on ``stderr``.

    Returns:
        The exit code of the last start; 128 + N where signal N came between two starts, unless the ranks had saved,
        or before the first one, unless it asked to save: nothing is lost then.
    """
    if signals.received:
        streams.write_message(stderr, signals.before_training)
        return signals.code_before_training
    for number in range(max_restarts + 1):
        attempt = replace(plan, env={**plan.env, RESTART: str(number)})
        code = supervise(attempt, signals, stdout=stdout, stderr=stderr)
        if code == 0 or signals.received or number == max_restarts:
            break
        pause = pause_before(number + 1)
        streams.write_message(
            stderr, f"hvdkit: restart {number + 1} of {max_restarts} in {pause:.0f} s, after {_why(code)}."
        )
        if not _pause(pause, signals):
            streams.write_message(
                stderr, f"hvdkit: ended by {signals.name} before the restart; all {plan.np} ranks are gone."
            )
            saved = code == REQUEUE_EXIT_CODE and signals.preempted
            return code if saved else 128 + signals.received[0]
    return code


def pause_before(restart: int) -> float:
    """The seconds before a restart: 1, 2, 4 and so on.

    Example:

    >>> [pause_before(restart) for restart in (1, 2, 5, 6, 5000)]
    [1.0, 2.0, 16.0, 30.0, 30.0]
    """
    return min(2.0 ** min(restart - 1, 10), _LONGEST_PAUSE)


def _why(code: int) -> str:
    if code == REQUEUE_EXIT_CODE:
        return f"the ranks saved (exit code {code})"
    with contextlib.suppress(ValueError):
        return f"{signal.Signals(code - 128).name} (exit code {code})"
    return f"exit code {code}"


def _pause(seconds: float, signals: Signals) -> bool:
    """Wait; False as soon as a signal has come."""
    until = time.monotonic() + seconds
    while not signals.received and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _POLL))
    return not signals.received
