"""All-reduce among the ranks of one host, through memory they share.

Each rank writes a piece of its values into its own area; each then joins one share of that piece over all areas, and
all read the shares. Every byte is written once and joined once, by ``n`` ranks at the same time: the traffic of a ring,
without a message. A small piece each rank joins by itself, which saves the wait for the shares of others. Ranks
tell one another how far they are by counters in the same memory, a cache line each; so a rank that does not come is
known by name. Beside the counters stands what a rank is about to do: ranks whose collectives differ end with an error,
where they would join what does not belong together.

Pieces have two slots, so that one is filled while another is still read.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.comm.mpi.patience import Patience, broken_off, differ

# Of 128 KiB to 4 MiB the fastest for 40 MB on 2 ranks (docs/benchmarks.md): smaller pieces pay for their meetings.
SLOT_BYTES = 4 * 2**20
# Up to so many bytes over all ranks of the host, each rank joins all of them by itself, which saves a second meeting.
_EACH_BYTES = 2 * 2**20
_CACHE_LINE = 64
_ALIGNED = _CACHE_LINE // 4
_ARRIVED, _REDUCED, _DONE, _LEFT = range(4)
# Each rank's page of the book: the counters in a cache line of their own, then two places for what it is about to do.
_PAGE, _TEXT = 512, 224
_PER_PAGE = _PAGE // 8
_LAST_WORDS_SECONDS = 2.0
_lock = threading.Lock()


@dataclass(frozen=True)
class How:
    """How values are joined.

    Attributes:
        join: ``np.add``, ``np.minimum``, ...
        before: what each value is multiplied with first.
        across: called with each joined share, to join it in place with those of other hosts.
        divisor: what each value is divided by at the end.
    """

    join: np.ufunc
    before: float = 1.0
    across: Callable[[np.ndarray], None] | None = None
    divisor: float = 1.0

    def put(self, x: np.ndarray, place: np.ndarray) -> None:
        """Copy a rank's values to where they are joined."""
        if self.before == 1.0:
            np.copyto(place, x)
        else:
            np.multiply(x, x.dtype.type(self.before), out=place)

    def join_all(self, parts: list[np.ndarray], out: np.ndarray) -> None:
        """Join the same part of all ranks of a host into ``out``, which may be the first of them, and finish it."""
        if not out.size:
            return
        if len(parts) == 1:
            np.copyto(out, parts[0])
        else:
            self.join(parts[0], parts[1], out=out)
        for part in parts[2:]:
            self.join(out, part, out=out)
        if self.across:
            self.across(out)
        if self.divisor != 1.0:
            np.divide(out, out.dtype.type(self.divisor), out=out)


class HostMemory:
    """The memory that this host's ranks share.

    Args:
        memory: the memory.
        me: this rank's number among them.
        names: their ranks in the world.
        owners: how many of them join shares; the first so many.
        patience: how long to wait.
    """

    def __init__(self, memory: mmap.mmap, me: int, names: list[int], owners: int, patience: Patience):
        self._memory, self._me, self._names, self._owners = memory, me, names, owners
        self._patience = patience
        self._size = len(names)
        self._book = memoryview(memory)[: self._size * _PAGE]
        self._counters = self._book.cast("q")
        self._number = 0
        self._gone_since: float | None = None

    @classmethod
    def shared(cls, host: Any, names: list[int], owners: int, patience: Patience) -> HostMemory | None:
        """Memory for the ranks of ``host``, an mpi4py communicator; None on all of them where it cannot be shared."""
        size = _begin(host.size) + 2 * SLOT_BYTES * host.size
        descriptor, path = -1, None
        if host.rank == 0:
            with contextlib.suppress(OSError, AttributeError):
                descriptor = os.memfd_create("hvdkit")
                os.posix_fallocate(descriptor, 0, size)  # full memory is an error here, and would be a signal later
                path = f"/proc/{os.getpid()}/fd/{descriptor}"
        path = host.bcast(path)
        memory = None
        if path is not None:
            with contextlib.suppress(OSError):
                descriptor = descriptor if host.rank == 0 else os.open(path, os.O_RDWR)
                memory = mmap.mmap(descriptor, size)
        everyone = host.allreduce(int(memory is not None)) == host.size
        if descriptor >= 0:
            os.close(descriptor)
        return cls(memory, host.rank, names, owners, patience) if everyone else None

    def allreduce(self, x: np.ndarray, out: np.ndarray, how: How, what: str) -> None:
        """Join ``x`` of all ranks into ``out``, which may be the same array.

        Args:
            x, out: flat, contiguous, of one dtype and size on every rank.
            how: what is done with the values.
            what: what this is, for messages; the same on every rank.
        """
        step = SLOT_BYTES // x.itemsize
        for at in range(0, x.size, step):
            piece = f"{what}, values {at} to {x.size}" if at else what
            self._piece(x[at : at + step], out[at : at + step], how, piece)

    def agree(self, what: str) -> None:
        """Meet, and check that every rank is here for the same; raises as ``MpiRanks.same``."""
        number = self._number = self._number + 1
        self._wait(_DONE, number - 2, what)
        self._write(number, what)
        self._meet(_ARRIVED, number, what)
        self._compare(number)
        self._tell(_REDUCED, number)
        self._tell(_DONE, number)

    def check_gone(self, what: str) -> bool:
        """Asked again and again by a rank that waits: has another one left, and not just after its own part?

        Raises:
            CommunicationError: one has left; some time after it did, so that its own error comes first.
        """
        gone = [str(self._names[r]) for r in range(self._size) if self._counters[r * _PER_PAGE + _LEFT]]
        if gone:
            self._gone_since = self._gone_since or time.monotonic()
            if time.monotonic() - self._gone_since > _LAST_WORDS_SECONDS:
                raise broken_off(f"missing ranks: {', '.join(gone)}, ended before {what}", self._patience.rank)
        return False

    def _piece(self, x: np.ndarray, out: np.ndarray, how: How, what: str) -> None:
        number = self._number = self._number + 1
        self._wait(_DONE, number - 2, what)
        areas = [self._area(rank, number % 2, x) for rank in range(self._size)]
        everything = how.across is None and x.nbytes * self._size <= _EACH_BYTES
        begin, end = (0, 0) if everything else self._shares(x.size)[self._me]
        how.put(x[:begin], areas[self._me][:begin])  # what this rank joins itself, the others need not see
        how.put(x[end:], areas[self._me][end:])
        self._write(number, what)
        self._meet(_ARRIVED, number, what)
        self._compare(number)
        if everything:  # in one order, so that all have the same bits
            how.join_all(areas, out)
            self._tell(_REDUCED, number)
        else:
            mine = areas[self._me][begin:end]
            others = [area[begin:end] for rank, area in enumerate(areas) if rank != self._me]
            my_own = x[begin:end]
            if how.before != 1.0:
                how.put(my_own, mine)
                my_own = mine
            how.join_all([my_own, *others], mine)
            self._tell(_REDUCED, number)
            np.copyto(out[begin:end], mine)
            self._wait(_REDUCED, number, what)
            for rank, (begin, end) in enumerate(self._shares(x.size)):
                if rank != self._me:
                    np.copyto(out[begin:end], areas[rank][begin:end])
        self._tell(_DONE, number)

    def leave(self) -> None:
        """Say that this rank will come to no other collective."""
        self._tell(_LEFT, 1)

    def _area(self, rank: int, slot: int, like: np.ndarray) -> np.ndarray:
        offset = _begin(self._size) + (2 * rank + slot) * SLOT_BYTES
        return np.frombuffer(self._memory, like.dtype, like.size, offset)

    def _shares(self, size: int) -> list[tuple[int, int]]:
        """Each rank's part of a piece, beginning where a cache line does."""
        each = -(-size // (self._owners * _ALIGNED)) * _ALIGNED
        ends = [min(owner * each, size) for owner in range(self._owners + 1)]
        return [(ends[min(r, self._owners)], ends[min(r + 1, self._owners)]) for r in range(self._size)]

    def _write(self, number: int, what: str) -> None:
        text = what.encode()[: _TEXT - 1]
        begin = self._me * _PAGE + _CACHE_LINE + number % 2 * _TEXT
        self._book[begin : begin + len(text) + 1] = text + b"\0"

    def _compare(self, number: int) -> None:
        begins = [rank * _PAGE + _CACHE_LINE + number % 2 * _TEXT for rank in range(self._size)]
        mine = bytes(self._book[begins[self._me] : begins[self._me] + _TEXT]).split(b"\0", 1)[0] + b"\0"
        if all([self._book[begin : begin + len(mine)] == mine for begin in begins]):  # noqa: C419  as below
            return
        texts = [
            bytes(self._book[begin : begin + _TEXT]).split(b"\0", 1)[0].decode("utf-8", "replace") for begin in begins
        ]
        self._tell(_REDUCED, number)  # those who read on may go on, where a program goes on after the error
        self._tell(_DONE, number)
        raise differ(dict(zip(self._names, texts, strict=True)), self._patience.rank)

    def _meet(self, counter: int, number: int, what: str) -> None:
        self._tell(counter, number)
        self._wait(counter, number, what)

    def _tell(self, counter: int, number: int) -> None:
        _fence()
        self._counters[self._me * _PER_PAGE + counter] = number

    def _wait(self, counter: int, number: int, what: str) -> None:
        counters, ranks = self._counters, range(counter, self._size * _PER_PAGE, _PER_PAGE)

        def ready() -> bool:
            return all([counters[i] >= number for i in ranks])  # noqa: C419  a list is faster here

        def missing() -> str:
            return ", ".join(str(self._names[r]) for r, i in enumerate(ranks) if counters[i] < number)

        def ready_or_gone() -> bool:
            return ready() or self.check_gone(what)

        if not ready():
            self._patience.wait(ready_or_gone, missing, what)
        _fence()


def _begin(size: int) -> int:
    """Where the areas begin, after the counters: on a page."""
    return -(-size * _PAGE // mmap.PAGESIZE) * mmap.PAGESIZE


def _fence() -> None:
    """Keep values before the counter that announces them. x86 does by itself; elsewhere a lock taken twice does."""
    if _weakly_ordered:
        for _ in range(2):
            with _lock:
                pass


_weakly_ordered = platform.machine() not in ("x86_64", "AMD64", "i686")
