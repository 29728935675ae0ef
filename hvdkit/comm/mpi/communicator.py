"""Collectives of NumPy arrays among the ranks of an mpi4py communicator, none of which waits for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hvdkit.comm.bitcast import scaled
from hvdkit.comm.engine import ReduceOp
from hvdkit.comm.mean import factors
from hvdkit.comm.mpi.adasum import adasum
from hvdkit.comm.mpi.algorithms import WireFormat
from hvdkit.comm.mpi.buffers import Buffers
from hvdkit.comm.mpi.combination import Combination
from hvdkit.comm.mpi.host_memory import HostMemory
from hvdkit.comm.mpi.network import SMALL_BYTES, Network
from hvdkit.comm.mpi.small import SmallAllreduce
from hvdkit.comm.mpi.timeout import MESSAGES_SLEEP, Timeout, mismatch
from hvdkit.comm.mpi.wire import ExactWire, Float16Wire

_JOIN = {
    ReduceOp.AVERAGE: np.add,
    ReduceOp.SUM: np.add,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
    ReduceOp.PRODUCT: np.multiply,
}
_ROLL_CALL_SECONDS = 3.0
_NOTHING = np.empty(0, np.uint8)
_HERE = 1  # the tag of "I am in this collective too"


class Communicator:
    """Some ranks, and what they exchange.

    Every rank makes the same calls in the same order.

    Args:
        comm: an mpi4py communicator; a copy of it is used.
        timeout: waits for the other ranks, with a deadline.
        world_ranks: the ranks of the communicator by their numbers in the world.
        algorithm: how hosts reduce, a name in ``algorithms.ALGORITHMS``; None chooses by the size.
    """

    def __init__(self, comm: Any, timeout: Timeout, world_ranks: list[int] | None = None, algorithm: str | None = None):
        from mpi4py import MPI

        self.comm, self._timeout, self._algorithm = comm.Dup(), timeout, algorithm
        self.rank, self.size = comm.rank, comm.size
        self.world_ranks = world_ranks or list(range(comm.size))
        host = host_of(comm)
        self.local_rank, self.local_size = host.rank, host.size
        self._across = comm.Split(self.local_rank)
        self.cross_rank, self.cross_size = self._across.rank, self._across.size
        leaders, largest = comm.allreduce(host.size, MPI.MIN), comm.allreduce(host.size, MPI.MAX)
        self.hosts = comm.allreduce(int(host.rank == 0))
        here = host.allgather(self.world_ranks[self.rank])
        self._memory = HostMemory.shared(host, here, leaders, timeout) if largest > 1 else None
        if not comm.allreduce(int(self._memory is not None or largest == 1), MPI.MIN):
            self._memory = None  # on every host or on none
        self._by_messages = self._memory is None or self.hosts > 1
        # Which ranks exchange them: those of different hosts that have the same slice, or all.
        self._most_ranks_per_host = largest if self._memory else 1
        peers = self._across if self._memory else self.comm
        self._peers_world_ranks = peers.allgather(self.world_ranks[self.rank])
        peers = peers.Dup()
        self._network = Network(peers, algorithm, lambda: self._missing(peers, self._peers_world_ranks))
        self._small = SmallAllreduce(self.comm)
        self._buffers = Buffers()
        host.Free()

    def allreduce(
        self,
        x: np.ndarray,
        op: ReduceOp,
        prescale: float = 1.0,
        postscale: float = 1.0,
        *,
        in_place: bool,
        what: str,
        as_float16: bool = False,
        check: bool = False,
    ) -> np.ndarray:
        """Join an array over the ranks.

        Args:
            x: of one of ``engine.REDUCIBLE``.
            op: the reduction.
            prescale, postscale: multiply before and after.
            in_place: the result may overwrite ``x``.
            what: a name for messages.
            halves: the values are float16 in float32, and may travel as float16 between hosts.
            check: whether the ranks have to see first that they make the same call.
        """
        flat = np.ascontiguousarray(x).reshape(-1)
        if flat.dtype.kind != "f":  # whole numbers are scaled in float64 and cut off, as Horovod does
            flat = scaled(flat, prescale)
            out = self._join(flat, self._out(flat, in_place), op, Combination(_JOIN[op]), what, check=check)
            divisor = self.size if op is ReduceOp.AVERAGE else 1
            is_exact = divisor == postscale == 1
            return (out if is_exact else (out / divisor * postscale).astype(out.dtype)).reshape(x.shape)
        combination, postscale = self._combination(op, prescale, postscale, as_float16)
        out = self._join(flat, self._out(flat, in_place), op, combination, what, check=check)
        return (out if postscale == 1.0 else np.multiply(out, out.dtype.type(postscale), out=out)).reshape(x.shape)

    def _combination(
        self, op: ReduceOp, prescale: float, postscale: float, as_float16: bool
    ) -> tuple[Combination, float]:
        operation = _JOIN.get(op, np.add)
        if as_float16 and operation is np.add and self._by_messages and postscale:
            # Divided in float32 after the sum: before it float16 would lose what is small.
            divisor = (self.size if op is ReduceOp.AVERAGE else 1) / postscale
            return Combination(operation, prescale, divisor, as_float16=True), 1.0
        prescale, divisor, postscale = factors(op, self.size, prescale, postscale)
        return Combination(operation, prescale, divisor), postscale

    def _out(self, x: np.ndarray, in_place: bool) -> np.ndarray:
        return x if in_place and x.flags.writeable else self._buffers.take(x.dtype, x.size)

    def _join(
        self, x: np.ndarray, out: np.ndarray, op: ReduceOp, combination: Combination, what: str, *, check: bool
    ) -> np.ndarray:
        if op is ReduceOp.ADASUM:
            if check:
                self.check_same(what)
            combination.copy_in(x, out)
            adasum(out, self.rank, self.size, self._swap)
            return combination.finish(out)
        if self._by_messages and x.nbytes <= SMALL_BYTES:
            combination.copy_in(x, out)
            np.copyto(out, self._join_small(out, combination.operation, what))
            return combination.finish(out)
        if self._by_messages and check:
            self.check_same(what)
        if self._memory:
            network = (self._network, self._wire(combination)) if self._by_messages else None
            self._memory.allreduce(x, out, combination, what, network)
        else:
            wait = lambda ready: self._wait_until(ready, what, self._network.missing)
            self._network.allreduce(x, out, combination.copy_in, self._wire(combination), wait)
        return out

    def _wire(self, combination: Combination) -> WireFormat:
        if combination.as_float16:
            return Float16Wire(
                combination.divisor, self._network.summed(self._most_ranks_per_host), self._network.scratch
            )
        return ExactWire(combination.operation, combination.divisor, self._network.scratch)

    def _join_small(self, x: np.ndarray, operation: np.ufunc, what: str) -> np.ndarray:
        joined = self._small.allreduce(x, operation, what, lambda ready: self._wait_until(ready, what))
        if joined is None:
            texts = self.allgather(np.frombuffer(f"{what}\n".encode(), np.uint8), what).tobytes().decode().splitlines()
            raise mismatch(dict(zip(self.world_ranks, texts, strict=True)), self._timeout.rank)
        return joined

    def _swap(self, sent: np.ndarray, other: int) -> np.ndarray:
        received = np.empty_like(sent)
        requests = [self.comm.Isend(sent, other), self.comm.Irecv(received, other)]
        for request in requests:
            self._wait(request, "Adasum", self.comm, self.world_ranks)
        return received

    def allgather(self, x: np.ndarray, what: str) -> np.ndarray:
        """The ranks' rows, one after the other."""
        x = np.ascontiguousarray(x)
        rows = np.empty(self.size, np.int64)
        self._wait(self.comm.Iallgather(np.array([len(x)], np.int64), rows), what, self.comm, self.world_ranks)
        out = np.empty((int(rows.sum()), *x.shape[1:]), x.dtype)
        counts = (rows * _row_bytes(x)).tolist()
        self._wait(self.comm.Iallgatherv(_bytes(x), [_bytes(out), counts]), what, self.comm, self.world_ranks)
        return out

    def broadcast(self, x: np.ndarray, root: int, what: str) -> np.ndarray:
        """The root's array."""
        out = np.array(x, copy=True, order="C")
        self._wait(self.comm.Ibcast(_bytes(out), root), what, self.comm, self.world_ranks)
        return out

    def alltoall(self, x: np.ndarray, splits: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Send ``splits[r]`` rows to rank r; the received rows and how many came from each rank."""
        x, splits = np.ascontiguousarray(x), np.ascontiguousarray(splits, np.int32)
        received = np.empty(self.size, np.int32)
        self._wait(self.comm.Ialltoall(splits, received), what, self.comm, self.world_ranks)
        out = np.empty((int(received.sum()), *x.shape[1:]), x.dtype)
        sent, taken = ((rows.astype(np.int64) * _row_bytes(x)).tolist() for rows in (splits, received))
        self._wait(self.comm.Ialltoallv([_bytes(x), sent], [_bytes(out), taken]), what, self.comm, self.world_ranks)
        return out, received

    def barrier(self) -> None:
        """Return when every rank is here."""
        self._wait(self.comm.Ibarrier(), "a barrier", self.comm, self.world_ranks)

    def check_same(self, what: str) -> None:
        """Check that every rank is about to make the same collective.

        Args:
            what: its kind, dtype, shape, ... in words.

        Raises:
            CommunicationError: on every rank, with what each is about to do.
        """
        if self._memory and self.hosts == 1:
            self._memory.check_same(what)
            return
        self._join_small(_NOTHING, np.add, what)

    def subgroup(self, members: list[int]) -> Communicator:
        """Some of the world's ranks; called by them alone."""
        group = self.comm.group.Incl(members)
        return Communicator(self.comm.Create_group(group), self._timeout, members, self._algorithm)

    def leave(self) -> None:
        """Say that this rank will come to no other collective."""
        if self._memory:
            self._memory.leave()

    def _wait(self, request: Any, what: str, comm: Any, world_ranks: list[int]) -> None:
        self._wait_until(request.Test, what, lambda: self._missing(comm, world_ranks))

    def _wait_until(self, ready: Callable[[], bool], what: str, missing: Callable[[], str] | None = None) -> None:
        def ready_or_gone() -> bool:
            return ready() or bool(self._memory and self._memory.check_peer_exit(what))

        missing = missing or (lambda: self._missing(self.comm, self.world_ranks))
        self._timeout.wait(ready_or_gone, missing, what, MESSAGES_SLEEP)

    def _missing(self, comm: Any, world_ranks: list[int]) -> str:
        """A roll call, when the time is over: the ranks from which nothing is heard, or which wait for others."""
        token = np.zeros(1, np.uint8)
        others = [rank for rank in range(comm.size) if rank != comm.rank]
        sent = [comm.Isend(token, rank, _HERE) for rank in others]  # noqa: F841  kept alive until all have answered
        missing, until = set(others), time.monotonic() + _ROLL_CALL_SECONDS
        while missing and time.monotonic() < until:
            missing -= {rank for rank in missing if comm.Iprobe(rank, _HERE)}
            time.sleep(0.01)
        names = self._timeout.names(world_ranks[rank] for rank in sorted(missing))
        return names or "none of those asked, but they wait too"


def _bytes(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1).view(np.uint8)


def host_of(comm: Any) -> Any:
    """The ranks of a communicator that are on this host."""
    from mpi4py import MPI

    return comm.Split_type(MPI.COMM_TYPE_SHARED)


def _row_bytes(x: np.ndarray) -> int:
    return x.dtype.itemsize * int(np.prod(x.shape[1:], dtype=np.int64))
