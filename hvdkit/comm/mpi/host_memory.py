"""All-reduce among the ranks of one host, through memory they share.

Each rank writes a piece of its values into its own segment, reduces one slice of it over all segments, and reads
the slices of the others. Every byte is written once and reduced once, by ``n`` ranks at the same time: the traffic of a
ring, without a message. A small piece is reduced whole by each rank, which saves the wait for the others' slices. Ranks
announce how far they are by counters in a control block of the same memory, a cache line each, so that the rank that is
missing can be named. The control block also holds what a rank is about to do: ranks whose collectives differ end with
an error instead of combining what does not belong together.

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

from hvdkit.comm.mpi.timeout import Timeout, mismatch
from hvdkit.errors import broken_off

# Of 128 KiB to 4 MiB the fastest for 40 MB on 2 ranks (docs/benchmarks.md): smaller pieces pay for their meetings.
SLOT_BYTES = 4 * 2**20
# Up to this many bytes over all ranks of the host, each rank reduces all of them itself, which saves a rendezvous.
_EACH_BYTES = 2 * 2**20
_CACHE_LINE = 64
_ALIGNED = _CACHE_LINE // 4
_ARRIVED, _REDUCED, _DONE, _LEFT = range(4)
# Each rank's control block: the counters in a cache line of their own, then two texts of what it is about to do.
_CONTROL_BYTES, _TEXT = 512, 224
_COUNTERS_PER_RANK = _CONTROL_BYTES // 8
_PEER_ERROR_GRACE_SECONDS = 2.0
_lock = threading.Lock()


@dataclass(frozen=True)
class Combination:
    """How values are combined.

    Attributes:
        operation: ``np.add``, ``np.minimum``, ...
        prescale: what each value is multiplied with first.
        across: called with each reduced slice, to reduce it in place with those of other hosts.
        divisor: what each value is divided by at the end.
    """

    operation: np.ufunc
    prescale: float = 1.0
    across: Callable[[np.ndarray], None] | None = None
    divisor: float = 1.0

    def copy_in(self, x: np.ndarray, place: np.ndarray) -> None:
        """Copy a rank's values to where they are combined."""
        if self.prescale == 1.0:
            np.copyto(place, x)
        else:
            np.multiply(x, x.dtype.type(self.prescale), out=place)

    def combine(self, parts: list[np.ndarray], out: np.ndarray) -> None:
        """Combine the same slice of all ranks of a host into ``out``, which may be the first of them, and finish it."""
        if not out.size:
            return
        if len(parts) == 1:
            np.copyto(out, parts[0])
        else:
            self.operation(parts[0], parts[1], out=out)
        for subgroup in parts[2:]:
            self.operation(out, subgroup, out=out)
        if self.across:
            self.across(out)
        if self.divisor != 1.0:
            np.divide(out, out.dtype.type(self.divisor), out=out)


class HostMemory:
    """The memory that this host's ranks share.

    Args:
        memory: the shared mapping.
        index: this rank's number on the host.
        world_ranks: the ranks of this host by their numbers in the world.
        leaders: how many of them reduce a slice: the first ones.
        timeout: waits for the other ranks, with a deadline.
    """

    def __init__(self, memory: mmap.mmap, index: int, world_ranks: list[int], leaders: int, timeout: Timeout):
        self._memory, self._index, self._world_ranks, self._leaders = memory, index, world_ranks, leaders
        self._timeout = timeout
        self._size = len(world_ranks)
        self._control = memoryview(memory)[: self._size * _CONTROL_BYTES]
        self._counters = self._control.cast("q")
        self._number = 0
        self._gone_since: float | None = None

    @classmethod
    def shared(cls, host: Any, world_ranks: list[int], leaders: int, timeout: Timeout) -> HostMemory | None:
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
        return cls(memory, host.rank, world_ranks, leaders, timeout) if everyone else None

    def allreduce(self, x: np.ndarray, out: np.ndarray, combination: Combination, what: str) -> None:
        """Join ``x`` of all ranks into ``out``, which may be the same array.

        Args:
            x, out: flat, contiguous, of one dtype and size on every rank.
            combination: what is done with the values.
            what: what this is, for messages; the same on every rank.
        """
        step = SLOT_BYTES // x.itemsize
        for at in range(0, x.size, step):
            piece = f"{what}, values {at} to {x.size}" if at else what
            self._reduce_piece(x[at : at + step], out[at : at + step], combination, piece)

    def check_same(self, what: str) -> None:
        """Meet, and check that every rank is here for the same; raises as ``Communicator.check_same``."""
        number = self._number = self._number + 1
        self._wait(_DONE, number - 2, what)
        self._write(number, what)
        self._rendezvous(_ARRIVED, number, what)
        self._compare(number)
        self._announce(_REDUCED, number)
        self._announce(_DONE, number)

    def check_peer_exit(self, what: str) -> bool:
        """Asked again and again by a rank that waits: has another one left, and not just after its own part?

        Raises:
            CommunicationError: one has left; some time after it did, so that its own error comes first.
        """
        gone = [str(self._world_ranks[r]) for r in range(self._size) if self._counters[r * _COUNTERS_PER_RANK + _LEFT]]
        if gone:
            self._gone_since = self._gone_since or time.monotonic()
            if time.monotonic() - self._gone_since > _PEER_ERROR_GRACE_SECONDS:
                raise broken_off(f"missing ranks: {', '.join(gone)}, ended before {what}", self._timeout.rank)
        return False

    def _reduce_piece(self, x: np.ndarray, out: np.ndarray, combination: Combination, what: str) -> None:
        number = self._number = self._number + 1
        self._wait(_DONE, number - 2, what)
        segments = [self._segment(rank, number % 2, x) for rank in range(self._size)]
        everything = combination.across is None and x.nbytes * self._size <= _EACH_BYTES
        begin, end = (0, 0) if everything else self._slices(x.size)[self._index]
        combination.copy_in(
            x[:begin], segments[self._index][:begin]
        )  # what this rank joins itself, the others need not see
        combination.copy_in(x[end:], segments[self._index][end:])
        self._write(number, what)
        self._rendezvous(_ARRIVED, number, what)
        self._compare(number)
        if everything:  # in one order, so that all have the same bits
            combination.combine(segments, out)
            self._announce(_REDUCED, number)
        else:
            segment_slice = segments[self._index][begin:end]
            others = [segment[begin:end] for rank, segment in enumerate(segments) if rank != self._index]
            input_slice = x[begin:end]
            if combination.prescale != 1.0:
                combination.copy_in(input_slice, segment_slice)
                input_slice = segment_slice
            combination.combine([input_slice, *others], segment_slice)
            self._announce(_REDUCED, number)
            np.copyto(out[begin:end], segment_slice)
            self._wait(_REDUCED, number, what)
            for rank, (begin, end) in enumerate(self._slices(x.size)):
                if rank != self._index:
                    np.copyto(out[begin:end], segments[rank][begin:end])
        self._announce(_DONE, number)

    def leave(self) -> None:
        """Say that this rank will come to no other collective."""
        self._announce(_LEFT, 1)

    def _segment(self, rank: int, slot: int, like: np.ndarray) -> np.ndarray:
        offset = _begin(self._size) + (2 * rank + slot) * SLOT_BYTES
        return np.frombuffer(self._memory, like.dtype, like.size, offset)

    def _slices(self, size: int) -> list[tuple[int, int]]:
        """Each rank's part of a piece, beginning where a cache line does."""
        each = -(-size // (self._leaders * _ALIGNED)) * _ALIGNED
        ends = [min(leader * each, size) for leader in range(self._leaders + 1)]
        return [(ends[min(r, self._leaders)], ends[min(r + 1, self._leaders)]) for r in range(self._size)]

    def _write(self, number: int, what: str) -> None:
        text = what.encode()[: _TEXT - 1]
        begin = self._index * _CONTROL_BYTES + _CACHE_LINE + number % 2 * _TEXT
        self._control[begin : begin + len(text) + 1] = text + b"\0"

    def _compare(self, number: int) -> None:
        begins = [rank * _CONTROL_BYTES + _CACHE_LINE + number % 2 * _TEXT for rank in range(self._size)]
        begin = begins[self._index]
        text = bytes(self._control[begin : begin + _TEXT]).split(b"\0", 1)[0] + b"\0"
        if all([self._control[begin : begin + len(text)] == text for begin in begins]):  # noqa: C419  as below
            return
        texts = [
            bytes(self._control[begin : begin + _TEXT]).split(b"\0", 1)[0].decode("utf-8", "replace")
            for begin in begins
        ]
        # So that ranks which still read are not kept waiting, if a program continues after the error.
        self._announce(_REDUCED, number)
        self._announce(_DONE, number)
        raise mismatch(dict(zip(self._world_ranks, texts, strict=True)), self._timeout.rank)

    def _rendezvous(self, counter: int, number: int, what: str) -> None:
        self._announce(counter, number)
        self._wait(counter, number, what)

    def _announce(self, counter: int, number: int) -> None:
        _fence()
        self._counters[self._index * _COUNTERS_PER_RANK + counter] = number

    def _wait(self, counter: int, number: int, what: str) -> None:
        counters, ranks = self._counters, range(counter, self._size * _COUNTERS_PER_RANK, _COUNTERS_PER_RANK)

        def ready() -> bool:
            return all([counters[i] >= number for i in ranks])  # noqa: C419  a list is faster here

        def missing() -> str:
            return ", ".join(str(self._world_ranks[r]) for r, i in enumerate(ranks) if counters[i] < number)

        def ready_or_gone() -> bool:
            return ready() or self.check_peer_exit(what)

        if not ready():
            self._timeout.wait(ready_or_gone, missing, what)
        _fence()


def _begin(size: int) -> int:
    """Where the segments begin, after the counters: on a page."""
    return -(-size * _CONTROL_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE


def _fence() -> None:
    """Keep values before the counter that announces them. x86 does by itself; elsewhere a lock taken twice does."""
    if _weakly_ordered:
        for _ in range(2):
            with _lock:
                pass


_weakly_ordered = platform.machine() not in ("x86_64", "AMD64", "i686")
