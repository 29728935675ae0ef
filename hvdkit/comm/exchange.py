"""Python objects over the ranks: ``hvd.broadcast_object`` and ``hvd.allgather_object``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from hvdkit.comm import serialization, world
from hvdkit.comm.ops import allgather
from hvdkit.comm.process_sets import ProcessSet, check_root, engine_of, ranks_of
from hvdkit.errors import CommunicationError
from hvdkit.utils.rank_text import by_rank


def broadcast_object(
    obj: Any, root_rank: int = 0, name: str | None = None, process_set: ProcessSet | None = None
) -> Any:
    """Return the object of ``root_rank`` on every rank. It is sent as JSON and NumPy arrays, never pickled.

    Args:
        obj: None, bool, int, float, complex, str, bytes, paths, ranges; lists, tuples, named tuples, sets and
            dictionaries of these, with any keys; members of an enumeration, NumPy arrays and scalars. Its type is
            kept.
        root_rank: the rank (in the world) whose object is sent.
        name: the purpose of the exchange; the same on every rank.
        process_set: the ranks that take part; None means all.

    Raises:
        TypeError: on every rank, if the root's object contains something else.
        CommunicationError: on every rank, if the ranks call it for different purposes.
    """
    root_rank = check_root(root_rank, process_set)
    sent = obj if world.rank() == root_rank else None
    root = root_rank if process_set is None else process_set.ranks.index(root_rank)
    return allgather_object(sent, name or "hvd.broadcast_object", process_set)[root]


def allgather_object(obj: Any, name: str | None = None, process_set: ProcessSet | None = None) -> list:
    """Return every rank's object, in the order of the ranks. They are sent as JSON and NumPy arrays, never pickled.

    Args:
        obj: as for ``broadcast_object``.
        name: the purpose of the exchange; the same on every rank.
        process_set: the ranks that take part; None means all.

    Raises:
        TypeError: on every rank, if one rank's object contains something else.
        CommunicationError: on every rank, if the ranks call it for different purposes; the message names them.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.allgather_object({"rank": hvd.rank()})
    [{'rank': 0}]
    """
    purpose = name or "hvd.allgather_object"
    encoded = _try_on_this_rank(lambda: serialization.encode(obj))
    received = [
        serialization.decode(part) for part in _allgather_bytes(serialization.encode([purpose, *encoded]), process_set)
    ]
    purposes = [their_purpose for their_purpose, _, _ in received]
    if any(other != purpose for other in purposes):
        raise CommunicationError(
            f"The ranks do not exchange the same thing: {by_rank(purposes, ranks_of(process_set))}.",
            fix="make the same calls in the same order on every rank, with the same callbacks in every fit. A model "
            "that one rank trains alone belongs in `with hvd.local_training():`.",
            rank=world.rank(),
        )
    _raise_all(failure for _, failure, _ in received)
    failure, decoded = _try_on_this_rank(lambda: [serialization.decode(data) for _, _, data in received], [])
    # One rank may have imported these classes, and another not.
    if any(serialization.has_classes(data) for _, _, data in received):
        _raise_all(part.decode() for part in _allgather_bytes(failure.encode(), process_set))
    _raise_all([failure])
    return decoded


def _try_on_this_rank(make: Callable[[], Any], otherwise: Any = b"") -> tuple[str, Any]:
    """What went wrong, to be told to all ranks, so that none is left waiting; and what was made."""
    try:
        return "", make()
    except Exception as error:  # noqa: BLE001  raised on all ranks, by _raise_all()
        return f"rank {world.rank()}: {error}", otherwise


def _raise_all(failures: Iterable[str]) -> None:
    messages = [failure for failure in failures if failure]
    if messages:
        raise TypeError("; ".join(messages))


def _allgather_bytes(data: bytes, process_set: ProcessSet | None) -> list[bytes]:
    if engine_of(process_set).size == 1:
        return [data]
    lengths = allgather(np.array([len(data)], np.int64), None, process_set)
    everything = allgather(np.frombuffer(data, np.uint8), None, process_set).tobytes()
    ends = np.cumsum(lengths)
    return [everything[end - length : end] for end, length in zip(ends, lengths, strict=True)]
