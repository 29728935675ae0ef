"""All-reduce among the ranks of one host, through memory they share.

Each rank writes a piece of its values into its own segment, reduces one slice of it over all segments, and reads
the slices of the others. Every byte is written once and reduced once, by ``n`` ranks at the same time: the traffic of a
ring, without a message. A small piece is reduced whole by each rank, which saves the wait for the others' slices. Ranks
announce how far they are by counters in a control block of the same memory, a cache line each, so that the rank that is
missing can be named. The control block also holds what a rank is about to do: ranks whose collectives differ end with
an error instead of combining what does not belong together.

Pieces have two slots, so that one is filled while another is still read. Between hosts the slices of both travel.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.comm.mpi.algorithms import WireFormat
from hvdkit.comm.mpi.combination import Combination
from hvdkit.comm.mpi.network import Network, PendingReduction
from hvdkit.comm.mpi.timeout import MESSAGES_SLEEP, Timeout, mismatch
from hvdkit.errors import broken_off

# Of 128 KiB to 4 MiB the fastest for 40 MB on 2 ranks (docs/benchmarks.md): smaller pieces pay for their meetings.
SLOT_BYTES = 4 * 2**20
SLOTS = 2
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
class _Piece:
    """A piece under way: its number, the rank's part of the arrays, every rank's segment, and what other hosts do."""

    number: int
    out: np.ndarray
    segments: list[np.ndarray]
    what: str
    between_hosts: list[PendingReduction]


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
        self._network: Network | None = None

    @classmethod
    def shared(cls, host: Any, world_ranks: list[int], leaders: int, timeout: Timeout) -> HostMemory | None:
        """Memory for the ranks of ``host``, an mpi4py communicator; None on all of them where it cannot be shared."""
        size = _begin(host.size) + SLOTS * SLOT_BYTES * host.size
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

    def allreduce(
        self,
        x: np.ndarray,
        out: np.ndarray,
        combination: Combination,
        what: str,
        between_hosts: tuple[Network, WireFormat] | None = None,
    ) -> None:
        """Join ``x`` of all ranks into ``out``, which may be the same array.

        Args:
            x, out: flat, contiguous, of one dtype and size on every rank.
            combination: what is done with the values.
            what: what this is, for messages; the same on every rank.
            between_hosts: the ranks of other hosts that have the same slice, and how values travel there.
        """
        self._network, wire = between_hosts or (None, None)
        step = SLOT_BYTES // x.itemsize
        pending: deque[_Piece] = deque()
        try:
            for at in range(0, x.size, step):
                if len(pending) == (SLOTS if self._network else 1):
                    self._finish_piece(pending.popleft())
                piece = f"{what}, values {at} to {x.size}" if at else what
                pending.append(self._begin_piece(x[at : at + step], out[at : at + step], combination, wire, piece))
            while pending:
                self._finish_piece(pending.popleft())
        finally:
            if self._network:
                self._network.abandon()  # of an error only: else nothing is under way
            self._network = None

    def check_same(self, what: str) -> None:
        """Meet, and check that every rank is here for the same; raises as ``Communicator.check_same``."""
        number = self._number = self._number + 1
        self._wait(_DONE, number - SLOTS, what)
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
        gone = [self._world_ranks[r] for r in range(self._size) if self._counters[r * _COUNTERS_PER_RANK + _LEFT]]
        if gone:
            self._gone_since = self._gone_since or time.monotonic()
            if time.monotonic() - self._gone_since > _PEER_ERROR_GRACE_SECONDS:
                raise broken_off(f"missing ranks: {self._timeout.names(gone)}, ended before {what}", self._timeout.rank)
        return False

    def _begin_piece(
        self, x: np.ndarray, out: np.ndarray, combination: Combination, wire: WireFormat | None, what: str
    ) -> _Piece:
        number = self._number = self._number + 1
        self._wait(_DONE, number - SLOTS, what)
        segments = [self._segment(rank, number % SLOTS, x) for rank in range(self._size)]
        own = segments[self._index]
        everything = wire is None and x.nbytes * self._size <= _EACH_BYTES
        begin, end = (0, 0) if everything else self._slices(x.size)[self._index]
        # What this rank joins itself, the others need not see.
        combination.copy_in(x[:begin], own[:begin])
        combination.copy_in(x[end:], own[end:])
        self._write(number, what)
        self._rendezvous(_ARRIVED, number, what)
        self._compare(number)
        if everything:  # in one order, so that all have the same bits
            combination.combine(segments, out)
            combination.finish(out)
            return _Piece(number, out, [], what, [])
        own_slice, input_slice = own[begin:end], x[begin:end]
        if combination.prescale != 1.0:
            combination.copy_in(input_slice, own_slice)
            input_slice = own_slice
        others = [segment[begin:end] for rank, segment in enumerate(segments) if rank != self._index]
        between_hosts = []
        if begin < end:
            combination.combine([input_slice, *others], own_slice)
            if wire is None:
                combination.finish(own_slice)
            else:
                between_hosts = self._network.start(own_slice, wire)
        return _Piece(number, out, segments, what, between_hosts)

    def _finish_piece(self, piece: _Piece) -> None:
        if piece.between_hosts:
            network = self._network
            self._wait_until(lambda: network.are_done(piece.between_hosts), network.missing, piece.what)
        self._announce(_REDUCED, piece.number)
        if piece.segments:
            slices = self._slices(len(piece.out))
            self._copy_out(piece, slices, [self._index])
            self._wait(_REDUCED, piece.number, piece.what)
            self._copy_out(piece, slices, [rank for rank in range(self._size) if rank != self._index])
        self._announce(_DONE, piece.number)

    def _copy_out(self, piece: _Piece, slices: list[tuple[int, int]], ranks: list[int]) -> None:
        for rank in ranks:
            begin, end = slices[rank]
            np.copyto(piece.out[begin:end], piece.segments[rank][begin:end])

    def leave(self) -> None:
        """Say that this rank will come to no other collective."""
        self._announce(_LEFT, 1)

    def _segment(self, rank: int, slot: int, like: np.ndarray) -> np.ndarray:
        offset = _begin(self._size) + (SLOTS * rank + slot) * SLOT_BYTES
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
            return self._timeout.names(self._world_ranks[r] for r, i in enumerate(ranks) if counters[i] < number)

        if not ready():
            self._wait_until(ready, missing, what)
        _fence()

    def _wait_until(self, ready: Callable[[], bool], missing: Callable[[], str], what: str) -> None:
        """Wait for others; what is under way between hosts goes on meanwhile."""

        def ready_or_gone() -> bool:
            if self._network:
                self._network.advance()
            return ready() or self.check_peer_exit(what)

        sleep = MESSAGES_SLEEP if self._network else None
        self._timeout.wait(ready_or_gone, missing, what, sleep)


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
