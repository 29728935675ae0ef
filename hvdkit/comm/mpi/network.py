"""Reductions between hosts: pieces of arrays, several under way at once, by messages that never block."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from hvdkit.comm.mpi.algorithms import ALGORITHMS, Peers, Steps, WireFormat
from hvdkit.comm.mpi.wire import Scratch

#: Bytes of a piece, and how many are under way: while one is added up the messages of others travel. Of 512 KiB to
#: 4 MiB the fastest on three hosts, where larger ones leave the links idle between two steps (docs/benchmarks.md).
PIECE_BYTES = 2**19
MAX_PENDING = 4
# Up to this many bytes the number of messages one after the other is what takes time.
SMALL_BYTES = 32 * 2**10
_FIRST_TAG, _TAGS = 16, 4096


class PendingReduction:
    """One reduction, as far as it has come."""

    def __init__(self, steps: Steps, test_all: Callable[[list], bool]):
        self._steps, self._test_all = steps, test_all
        self._requests: list | None = next(steps, None)

    def advance(self) -> bool:
        """Do what can be done now; whether all is done."""
        while self._requests is not None:
            if not self._test_all(self._requests):
                return False
            self._requests = next(self._steps, None)
        return True


class Network:
    """Ranks on different hosts that reduce arrays. Each makes the same calls in the same order.

    Args:
        comm: their mpi4py communicator, for nothing else.
        algorithm: a name in ``ALGORITHMS``; None chooses by the size.
        missing: says which of them have not come, in words.
    """

    def __init__(self, comm: Any, algorithm: str | None, missing: Callable[[], str]):
        from mpi4py import MPI

        self.comm, self.missing, self._algorithm = comm, missing, algorithm
        self._test_all = MPI.Request.Testall
        self._tags = itertools.cycle(range(_FIRST_TAG, _FIRST_TAG + _TAGS))
        self._pending: list[PendingReduction] = []
        self.size = comm.size
        self.scratch = Scratch(2 * MAX_PENDING)

    def start(self, values: np.ndarray, wire: WireFormat) -> list[PendingReduction]:
        """Begin to reduce an array in place, which must be left alone until it is done: see ``are_done``.

        Args:
            values: flat; of one size and dtype on every rank.
            wire: how it travels, and is combined.
        """
        step = PIECE_BYTES // values.itemsize
        return [self._start_piece(values[at : at + step], wire) for at in range(0, len(values), step)]

    def _start_piece(self, values: np.ndarray, wire: WireFormat) -> PendingReduction:
        algorithm = ALGORITHMS[self._choose(values, wire.is_exact)]
        made = PendingReduction(algorithm(Peers(self.comm, next(self._tags)), values, wire), self._test_all)
        self._pending.append(made)
        return made

    def summed(self, ranks: int) -> int:
        """How many values a sum on the way is of at most, if each rank's values are sums of so many."""
        return ranks * (self.size if self._algorithm == "ring" else 1)

    def advance(self) -> None:
        """Do for all reductions under way what can be done now."""
        self._pending = [reduction for reduction in self._pending if not reduction.advance()]

    def are_done(self, reductions: list[PendingReduction]) -> bool:
        """Whether some are done; all advance."""
        self.advance()
        return not any(reduction in self._pending for reduction in reductions)

    def abandon(self) -> None:
        """Forget what is under way, after an error."""
        self._pending.clear()

    def allreduce(
        self,
        x: np.ndarray,
        out: np.ndarray,
        copy_in: Callable[[np.ndarray, np.ndarray], None],
        wire: WireFormat,
        wait: Callable[[Callable[[], bool]], None],
    ) -> None:
        """Reduce ``x`` of all ranks into ``out``, which may be the same array.

        Args:
            x, out: flat, contiguous.
            copy_in: copies values of ``x`` to their place in ``out``.
            wire: how they travel.
            wait: returns when what it is given says so.
        """
        pieces: deque[PendingReduction] = deque()
        step = PIECE_BYTES // x.itemsize
        try:
            for at in range(0, x.size, step):
                if len(pieces) == MAX_PENDING:
                    self._finish(pieces.popleft(), wait)
                copy_in(x[at : at + step], out[at : at + step])
                pieces.append(self._start_piece(out[at : at + step], wire))
                self.advance()
            while pieces:
                self._finish(pieces.popleft(), wait)
        except BaseException:
            self.abandon()
            raise

    def _finish(self, piece: PendingReduction, wait: Callable[[Callable[[], bool]], None]) -> None:
        wait(lambda: self.are_done([piece]))

    def _choose(self, values: np.ndarray, is_exact: bool) -> str:
        chosen = self._algorithm or ("recursive-doubling" if values.nbytes <= SMALL_BYTES else "pairwise")
        return chosen if is_exact or chosen != "recursive-doubling" else "pairwise"
