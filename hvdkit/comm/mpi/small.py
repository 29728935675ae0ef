"""Small reductions among all ranks of several hosts, in the messages that also check that they make the same call."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from hvdkit.comm.mpi.algorithms import Peers, recursive_doubling
from hvdkit.comm.mpi.network import SMALL_BYTES, PendingReduction

_MARKS = 16  # bytes before the values: the smallest and the largest checksum of what a rank is about to do
_TAG = 2


class SmallAllreduce:
    """Reduces at most ``SMALL_BYTES``; whatever the ranks call, their messages fit.

    Args:
        comm: the mpi4py communicator of the ranks.
    """

    def __init__(self, comm: Any):
        from mpi4py import MPI

        self._peers = Peers(comm, _TAG)
        self._test_all = MPI.Request.Testall
        self._place = np.empty(_MARKS + SMALL_BYTES, np.uint8)

    def allreduce(
        self, x: np.ndarray, operation: np.ufunc, what: str, wait: Callable[[Callable[[], bool]], None]
    ) -> np.ndarray | None:
        """The values of all ranks combined; None on every rank where they do not all make the same call.

        Args:
            x: flat, contiguous.
            operation: ``np.add``, ``np.minimum``, ...
            what: what this rank calls: kind, dtype, shape, ... in words.
            wait: returns when what it is given says so.
        """
        message = np.empty(_MARKS + x.nbytes, np.uint8)
        marks, values = message[:_MARKS].view(np.uint64), message[_MARKS:].view(x.dtype)
        marks[:] = zlib.crc32(what.encode())
        np.copyto(values, x)
        steps = recursive_doubling(self._peers, message, _Marked(self._place, x.dtype, operation))
        wait(PendingReduction(steps, self._test_all).advance)
        return values if marks[0] == marks[1] else None


class _Marked:
    """Messages of marks and values; the marks say whether the values belong together."""

    is_exact = True

    def __init__(self, place: np.ndarray, dtype: np.dtype, operation: np.ufunc):
        self._place, self._dtype, self._operation = place, dtype, operation

    def encode(self, message: np.ndarray) -> np.ndarray:
        return message

    def place(self, message: np.ndarray) -> np.ndarray:
        return self._place

    def join(self, message: np.ndarray, received: np.ndarray) -> None:
        marks, others = (m[:_MARKS].view(np.uint64) for m in (message, received))
        if marks[0] == marks[1] == others[0] == others[1]:
            values = message[_MARKS:].view(self._dtype)
            self._operation(values, received[_MARKS : len(message)].view(self._dtype), out=values)
        marks[0], marks[1] = min(marks[0], others[0]), max(marks[1], others[1])

    def finish(self, message: np.ndarray) -> np.ndarray:
        return message

    def result_place(self, message: np.ndarray) -> np.ndarray:
        return self._place

    def take_result(self, message: np.ndarray, received: np.ndarray) -> None:
        message[:_MARKS] = received[:_MARKS]
        marks = message[:_MARKS].view(np.uint64)
        if marks[0] == marks[1]:
            message[_MARKS:] = received[_MARKS : len(message)]
