"""All-reduce algorithms between hosts: what each rank sends to whom, and when it adds up what came.

Each is a generator: it yields the MPI requests that it waits for, and goes on when they are done, so that one thread
has several reductions under way at once. With ``n`` ranks and ``b`` bytes, all but ``recursive_doubling`` send
``2 (n - 1) / n`` times ``b`` from each rank, which is the least that is possible (Patarasuk and Yuan, "Bandwidth
optimal all-reduce algorithms for clusters of workstations", 2009).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

#: A step of an algorithm ends with the requests to wait for.
Steps = Iterator[list]


class Peers:
    """The ranks among which values are reduced, and how this one sends to them.

    Args:
        comm: their mpi4py communicator.
        tag: of the messages, which tells apart what is under way at once.
    """

    def __init__(self, comm: Any, tag: int):
        self._comm, self._tag = comm, tag
        self.rank, self.size = comm.rank, comm.size

    def send(self, values: np.ndarray, peer: int) -> Any:
        """Begin to send; the request. The values must stay as they are until it is done."""
        return self._comm.Isend(values.view(np.uint8), peer, self._tag)

    def receive(self, place: np.ndarray, peer: int) -> Any:
        """Begin to receive, at most as many bytes as ``place`` has; the request."""
        return self._comm.Irecv(place.view(np.uint8), peer, self._tag)


class WireFormat(Protocol):
    """What values look like on the way between hosts.

    Attributes:
        is_exact: whether every rank receives what was sent, to the bit.
    """

    is_exact: bool

    def encode(self, values: np.ndarray) -> np.ndarray:
        """A rank's values, or a sum of them, as they are sent."""

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where such values are received: memory of their number, with anything in it."""

    def join(self, values: np.ndarray, received: np.ndarray) -> None:
        """Combine what was received with ``values``, in place."""

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Finish a whole reduction in place (the division of a mean); the result as it is sent."""

    def result_place(self, values: np.ndarray) -> np.ndarray:
        """Where a finished result for ``values`` is received."""

    def take_result(self, values: np.ndarray, received: np.ndarray) -> None:
        """Put a finished result that was received in the place of ``values``."""


def pairwise(peers: Peers, values: np.ndarray, wire: WireFormat) -> Steps:
    """Each rank receives its block of all others and adds them up, and then sends the sum to all.

    There is one addition between two messages, whatever the number of hosts, and every value is rounded once on its way
    to the sum. The order of the sum is the same in every run.
    """
    blocks = split(values, peers.size)
    own, others = blocks[peers.rank], _others(peers)
    places = [wire.place(own) for _ in others]
    received = [peers.receive(place, other) for place, other in zip(places, reversed(others), strict=True)]
    sent = [peers.send(wire.encode(blocks[other]), other) for other in others]
    for request, place in zip(received, places, strict=True):
        yield [request]
        wire.join(own, place)
    yield sent  # what is received next overwrites what these send
    result = wire.finish(own)
    places = [wire.result_place(blocks[other]) for other in reversed(others)]
    received = [peers.receive(place, other) for place, other in zip(places, reversed(others), strict=True)]
    sent = [peers.send(result, other) for other in others]
    yield received + sent
    for place, other in zip(places, reversed(others), strict=True):
        wire.take_result(blocks[other], place)


def ring(peers: Peers, values: np.ndarray, wire: WireFormat) -> Steps:
    """Each rank receives from the one before it alone, adds its own values and sends the sum to the next one.

    A rank has two connections only, but sums pass through every host, one after the other.
    """
    size, rank = peers.size, peers.rank
    blocks = split(values, size)
    before, after = (rank - 1) % size, (rank + 1) % size
    for step in range(size - 1):
        block = blocks[(rank - step - 1) % size]
        place = wire.place(block)
        yield [peers.receive(place, before), peers.send(wire.encode(blocks[(rank - step) % size]), after)]
        wire.join(block, place)
    result = wire.finish(blocks[after])
    for step in range(size - 1):
        block = blocks[(rank - step) % size]
        place = wire.result_place(block)
        yield [peers.receive(place, before), peers.send(result, after)]
        wire.take_result(block, place)
        result = place


def recursive_doubling(peers: Peers, values: np.ndarray, wire: WireFormat) -> Steps:
    """Ranks exchange all of their values in pairs, then pairs do, and so on.

    It takes the fewest messages one after the other, and sends all values in each: for small arrays. The wire has to be
    exact, because both ranks of a pair compute their sum.
    """
    place = wire.place(values)
    partner, rounds = _partners(peers)
    if partner is not None and partner < peers.rank:  # it takes part through the other one
        yield [peers.send(wire.encode(values), partner)]
        result = wire.result_place(values)
        yield [peers.receive(result, partner)]
        wire.take_result(values, result)
        return
    if partner is not None:
        yield [peers.receive(place, partner)]
        wire.join(values, place)
    for other in rounds:
        yield [peers.receive(place, other), peers.send(wire.encode(values), other)]
        wire.join(values, place)
    result = wire.finish(values)
    if partner is not None:
        yield [peers.send(result, partner)]


#: What ``algorithm`` can be between hosts.
ALGORITHMS: dict[str, Callable[[Peers, np.ndarray, WireFormat], Steps]] = {
    "pairwise": pairwise,
    "ring": ring,
    "recursive-doubling": recursive_doubling,
}


def split(values: np.ndarray, size: int) -> list[np.ndarray]:
    """Blocks of nearly the same length, one per rank.

    >>> [block.tolist() for block in split(np.arange(5), 3)]
    [[0, 1], [2, 3], [4]]
    """
    ends = [-(-len(values) * i // size) for i in range(size + 1)]
    return [values[begin:end] for begin, end in itertools.pairwise(ends)]


def _others(peers: Peers) -> list[int]:
    """In an order in which no rank is the first for two others."""
    return [(peers.rank + distance) % peers.size for distance in range(1, peers.size)]


def _partners(peers: Peers) -> tuple[int | None, list[int]]:
    """With whom a rank begins and ends where their number is no power of two, and with whom it exchanges between."""
    power = 1 << (peers.size.bit_length() - 1)
    surplus = peers.size - power
    if peers.rank >= power:
        return peers.rank - power, []
    rounds = [peers.rank ^ (1 << bit) for bit in range(power.bit_length() - 1)]
    return (peers.rank + power if peers.rank < surplus else None), rounds
