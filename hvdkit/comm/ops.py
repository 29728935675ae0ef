"""The collectives users call. NumPy in, NumPy out; TensorFlow in, TensorFlow out, also inside ``tf.function``.

Every rank must call the same collectives in the same order with the same dtypes and shapes. In a world of one each
returns what it was given.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdkit.beginning import training_begins
from hvdkit.comm import compression as compressions
from hvdkit.comm import objects, world
from hvdkit.comm.compression import Compression
from hvdkit.comm.process_sets import ProcessSet, engine_of
from hvdkit.comm.protocol import ReduceOp
from hvdkit.comm.rank_text import by_rank
from hvdkit.comm.single import SingleEngine, scaled
from hvdkit.comm.values import call, is_slices, is_tensorflow
from hvdkit.errors import CommunicationError, UsageError
from hvdkit.numbers import real, whole


def allreduce(  # noqa: PLR0917  Horovod's arguments in Horovod's order
    value: Any,
    name: str | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: ReduceOp | str | None = None,
    compression: Any = None,
    process_set: ProcessSet | None = None,
) -> Any:
    """Reduce a value over all ranks.

    Args:
        value: array, number, ``tf.Tensor``, ``tf.IndexedSlices`` or Keras variable; same shape and dtype on every rank.
        name: what ranks recognise the collective by inside a graph.
        average: Horovod's old way to say ``op``: True is ``hvd.Average``, False is ``hvd.Sum``.
        prescale_factor, postscale_factor: multiply before and after the reduction.
        op: ``hvd.Average`` (the default), ``hvd.Sum``, ``hvd.Min``, ``hvd.Max``, ``hvd.Product`` or ``hvd.Adasum``.
        compression: ``hvd.Compression.fp16`` (or ``"fp16"``) sends floating-point numbers in half precision.
        process_set: the ranks to reduce over; None means all.

    Returns:
        The reduced value, the same on every rank, of the input's shape, dtype and kind; an average of whole numbers is
        cut off to a whole number. Of slices, every rank's slices one after the other.

    Raises:
        TypeError: a dtype that Horovod cannot reduce, such as bfloat16.
        UsageError: both ``average`` and ``op``, or an op that slices do not have.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> float(hvd.allreduce(2.0, op=hvd.Sum))  # in a world of one
    2.0
    """
    if not isinstance(name, str | None):
        raise UsageError(
            f"`name` must be a string. Received: name={name!r}.",
            fix="say op=hvd.Average or op=hvd.Sum; the second argument is `average` in horovod.tensorflow only.",
        )
    if is_slices(value):
        return _allreduce_slices(value, name, _op(op, average), prescale_factor * postscale_factor, process_set)
    names = name and [name]
    return grouped_allreduce(
        [value], names, average, prescale_factor, postscale_factor, op, compression, process_set, grouped=False
    )[0]


def grouped_allreduce(  # noqa: PLR0917  as allreduce
    values: list,
    names: list[str] | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: ReduceOp | str | None = None,
    compression: Any = None,
    process_set: ProcessSet | None = None,
    *,
    grouped: bool = True,
) -> list:
    """``allreduce`` of a list of dense values, which the transport moves together (``grouped``) or one by one."""
    training_begins()
    engine, op, wire = engine_of(process_set), _op(op, average), compressions.of(compression)
    prescale_factor = real(prescale_factor, "prescale_factor")
    postscale_factor = real(postscale_factor, "postscale_factor")
    engine = engine.grouped() if grouped else engine

    def collective(tensors: list) -> list:
        if wire is Compression.none or type(engine) is SingleEngine:
            return engine.allreduce(tensors, op, names, prescale_factor, postscale_factor)
        sent, contexts = zip(*map(wire.compress, tensors), strict=True)
        received = engine.allreduce(list(sent), op, names, prescale_factor, postscale_factor)
        return [wire.decompress(r, context) for r, context in zip(received, contexts, strict=True)]

    return call(engine, collective, list(values), arrays=wire is Compression.none) if values else []


def _op(op: ReduceOp | str | None, average: bool | None) -> ReduceOp:
    if op is not None and average is not None:
        raise UsageError("`average` is the old name of `op`: pass one of them.", fix="op=hvd.Average or op=hvd.Sum.")
    if op is None:
        return ReduceOp.SUM if average is False else ReduceOp.AVERAGE
    return ReduceOp.get(op)


def _allreduce_slices(slices: Any, name: str | None, op: ReduceOp, scale: float, process_set: Any) -> Any:
    import tensorflow as tf

    training_begins()
    if op not in (ReduceOp.AVERAGE, ReduceOp.SUM):
        raise UsageError(
            f"tf.IndexedSlices are joined by Average or Sum. Received: op={op.name.title()}.",
            fix="tf.convert_to_tensor(slices) makes them dense.",
        )
    ranks = engine_of(process_set).size if op is ReduceOp.AVERAGE else 1
    values = scaled(slices.values, scale / ranks)
    values = allgather(values, name and f"{name}.values", process_set)
    indices = allgather(slices.indices, name and f"{name}.indices", process_set)
    return tf.IndexedSlices(values, indices, slices.dense_shape)


def allgather(
    value: Any, name: str | None = None, process_set: ProcessSet | None = None, *, gradient: str = "average"
) -> Any:
    """The ranks' values, concatenated along axis 0 in the order of the ranks; axis 0 may differ between ranks.

    Args:
        value: array, number, ``tf.Tensor`` or Keras variable; the same dtype and further axes on every rank.
        name: what ranks recognise the collective by inside a graph.
        process_set: the ranks that take part; None means all.
        gradient: how the ranks' gradients with respect to the gathered value are joined, before each rank takes those
            of its own rows:

            - ``"average"``, as in Horovod: right where every rank computes the whole loss from all rows, and gradients
              of weights are *summed* over the ranks (``op=hvd.Sum``).
            - ``"sum"``, the gradient of the sum of the ranks' losses: right where gradients of weights are *averaged*
              over the ranks, as by default. N ranks with a contrastive loss are then one process with all rows, both
              where each rank computes the mean loss of its rows against all rows, and where each computes the whole
              loss. Every rank brings as many rows: ``uneven="drop"`` for data of ``hvd.data.shard``.

    Raises:
        UsageError: another ``gradient``.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.allgather(np.array([[1.0, 2.0]]), gradient="sum").tolist()  # in a world of one
    [[1.0, 2.0]]
    """
    if gradient not in ("average", "sum"):
        raise UsageError(f'`gradient` must be "average" or "sum". Received: gradient={gradient!r}.')
    engine = engine_of(process_set)
    value = value if np.ndim(value) or is_tensorflow(value) else np.reshape(value, [1])

    def collective(values: list) -> list:
        summed = gradient == "sum" and engine.size > 1 and is_tensorflow(values[0])
        return [engine.allgather(_with_gradient_times(values[0], engine.size) if summed else values[0], name)]

    return call(engine, collective, [value])[0]


def _with_gradient_times(tensor: Any, ranks: int) -> Any:
    """A tensor whose gradient is multiplied: after the mean, on a rank's own rows, so that no half overflows before."""
    import tensorflow as tf

    if not (tensor.dtype.is_floating or tensor.dtype.is_complex):
        return tensor
    multiplied = tf.custom_gradient(lambda x: (tf.identity(x), lambda upstream: upstream * ranks))
    return multiplied(tensor)


def broadcast(value: Any, root_rank: int = 0, name: str | None = None, process_set: ProcessSet | None = None) -> Any:
    """The value of ``root_rank`` (its rank in the world, also in a process set), on every rank.

    Raises:
        UsageError: there is no such rank.
    """
    engine = engine_of(process_set)
    root_rank = check_root(root_rank, process_set)
    return call(engine, lambda values: [engine.broadcast(values[0], root_rank, name)], [value])[0]


def alltoall(value: Any, splits: Any = None, name: str | None = None, process_set: ProcessSet | None = None) -> Any:
    """Send the first ``splits[0]`` rows to rank 0, the next ``splits[1]`` to rank 1, and so on.

    Args:
        value: at least one axis; the others than axis 0 are the same on every rank.
        splits: whole numbers, one per rank, that sum to the rows; None shares them out evenly.
        name: what ranks recognise the collective by inside a graph.
        process_set: the ranks that take part; None means all.

    Returns:
        The received rows; with ``splits`` given, also how many came from each rank.
    """
    engine = engine_of(process_set)
    received, rows = call(engine, lambda values: list(engine.alltoall(values[0], splits, name)), [value])
    return received if splits is None else (received, rows)


def reducescatter(
    value: Any,
    name: str | None = None,
    op: ReduceOp | str = ReduceOp.AVERAGE,
    process_set: ProcessSet | None = None,
) -> Any:
    """Reduce over all ranks and return this rank's share of axis 0; uneven rows go to the first ranks."""
    training_begins()
    engine, op = engine_of(process_set), ReduceOp.get(op)
    return call(engine, lambda values: [engine.reducescatter(values[0], op, name)], [value])[0]


def barrier(process_set: ProcessSet | None = None) -> None:
    """Return when every rank has called it."""
    engine_of(process_set).barrier()


def broadcast_object(
    obj: Any, root_rank: int = 0, name: str | None = None, process_set: ProcessSet | None = None
) -> Any:
    """The object of ``root_rank``, on every rank. It travels as JSON and NumPy arrays, never pickled.

    Args:
        obj: None, bool, int, float, str, lists, dictionaries with strings as keys, NumPy arrays, and these in these.
        root_rank: whose object, by its rank in the world.
        name: what the exchange is for; the same on every rank.
        process_set: the ranks that take part; None means all.

    Raises:
        TypeError: on every rank, when the root's object holds something else.
        CommunicationError: on every rank, when the ranks came here for different things.
    """
    root_rank = check_root(root_rank, process_set)
    mine = obj if world.rank() == root_rank else None
    root = root_rank if process_set is None else process_set.ranks.index(root_rank)
    return allgather_object(mine, name or "hvd.broadcast_object", process_set)[root]


def allgather_object(obj: Any, name: str | None = None, process_set: ProcessSet | None = None) -> list:
    """Every rank's object, in the order of the ranks. They travel as JSON and NumPy arrays, never pickled.

    Args:
        obj: as for ``broadcast_object``.
        name: what the exchange is for; the same on every rank.
        process_set: the ranks that take part; None means all.

    Raises:
        TypeError: on every rank, when one rank's object holds something else.
        CommunicationError: on every rank, when the ranks came here for different things, with what each came for.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.allgather_object({"rank": hvd.rank()})
    [{'rank': 0}]
    """
    purpose = name or "hvd.allgather_object"
    try:
        data, failure = objects.encode({"for": purpose, "object": obj}), None
    except Exception as error:  # noqa: BLE001  told to all ranks below: none may be left waiting for the one that raised
        failure = f"rank {world.rank()}: {error}"
        data = objects.encode({"for": purpose, "failure": failure})
    received = [objects.decode(part) for part in _allgather_bytes(data, process_set)]
    purposes = [part["for"] for part in received]
    if any(other != purpose for other in purposes):
        raise CommunicationError(
            f"The ranks do not exchange the same thing: {by_rank(purposes, ranks_of(process_set))}.",
            fix="make the same calls in the same order on every rank, with the same callbacks in every fit. A model "
            "that one rank trains alone belongs in `with hvd.local_training():`.",
            rank=world.rank(),
        )
    failures = [part["failure"] for part in received if "failure" in part]
    if failures:
        raise TypeError("; ".join(failures))
    return [part["object"] for part in received]


def ranks_of(process_set: ProcessSet | None) -> list[int]:
    """The ranks of a process set, in their order; of the world for None."""
    return list(range(world.size())) if process_set is None else process_set.ranks


def check_root(root_rank: int, process_set: ProcessSet | None = None) -> int:
    """A root as Python's number; one that is no rank of this world, or of the process set, is refused."""
    root_rank = whole(root_rank, "root_rank")
    if process_set is not None and root_rank not in process_set.ranks:
        raise UsageError(f"root_rank must be one of {process_set.ranks}. Received: root_rank={root_rank}.")
    if not 0 <= root_rank < world.size():
        raise UsageError(f"root_rank must be between 0 and {world.size() - 1}. Received: root_rank={root_rank}.")
    return root_rank


def _allgather_bytes(data: bytes, process_set: ProcessSet | None) -> list[bytes]:
    if engine_of(process_set).size == 1:
        return [data]
    lengths = allgather(np.array([len(data)], np.int64), None, process_set)
    everything = allgather(np.frombuffer(data, np.uint8), None, process_set).tobytes()
    ends = np.cumsum(lengths)
    return [everything[end - length : end] for end, length in zip(ends, lengths, strict=True)]
