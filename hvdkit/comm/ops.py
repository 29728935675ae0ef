"""The collectives users call. NumPy in, NumPy out; TensorFlow in, TensorFlow out, also inside ``tf.function``.

Every rank must call the same collectives in the same order with the same dtypes and shapes. In a single process each
returns what it was given.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdkit.comm.bitcast import scaled
from hvdkit.comm.compression import Compression, resolve_compression
from hvdkit.comm.engine import ReduceOp, check_reducible
from hvdkit.comm.process_sets import ProcessSet, check_root, engine_of
from hvdkit.comm.sparse import allreduce_slices
from hvdkit.comm.values import is_slices, is_tensorflow, run_collective, unwrap_variable
from hvdkit.errors import UsageError
from hvdkit.utils.numbers import real
from hvdkit.utils.training_start import training_begins


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
        name: identifies the collective inside a graph.
        average: Horovod's old form of ``op``: True is ``hvd.Average``, False is ``hvd.Sum``.
        prescale_factor, postscale_factor: factors for the values before and after the reduction.
        op: ``hvd.Average`` (the default), ``hvd.Sum``, ``hvd.Min``, ``hvd.Max``, ``hvd.Product`` or ``hvd.Adasum``.
        compression: ``hvd.Compression.fp16`` (or ``"fp16"``) sends floating-point numbers in half precision.
        process_set: the ranks to reduce over; None means all.

    Returns:
        The reduced value, which is the same on every rank and has the input's shape, dtype and kind. An average of
        integers is truncated to an integer. For slices, the result is the concatenation of every rank's slices, in
        which the mean of integers is float64.

    Raises:
        TypeError: a dtype that Horovod cannot reduce, such as bfloat16.
        UsageError: both ``average`` and ``op`` are given, or slices do not support the op.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> float(hvd.allreduce(2.0, op=hvd.Sum))  # in a single process
    2.0
    """
    if not isinstance(name, str | None):
        raise UsageError(
            f"`name` must be a string. Received: name={name!r}.",
            fix="pass op=hvd.Average or op=hvd.Sum; the second argument is `average` in horovod.tensorflow only.",
        )
    if is_slices(value):
        training_begins()
        scales = real(prescale_factor, "prescale_factor"), real(postscale_factor, "postscale_factor")
        return allreduce_slices(value, name, _op(op, average), scales, engine_of(process_set))
    scales = prescale_factor, postscale_factor
    where = {"compression": compression, "process_set": process_set}
    return _allreduce([value], name and [name], _op(op, average), scales, **where, grouped=False)[0]


def grouped_allreduce(  # noqa: PLR0917  as allreduce
    values: list,
    names: list[str] | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: ReduceOp | str | None = None,
    compression: Any = None,
    process_set: ProcessSet | None = None,
) -> list:
    """``allreduce`` of a list of dense values, which are all reduced together."""
    scales = prescale_factor, postscale_factor
    where = {"compression": compression, "process_set": process_set}
    return _allreduce(list(values), names, _op(op, average), scales, **where, grouped=True)


def _allreduce(
    values: list,
    names: list[str] | None,
    op: ReduceOp,
    scales: tuple[float, float],
    *,
    compression: Any,
    process_set: ProcessSet | None,
    grouped: bool,
) -> list:
    training_begins()
    engine, wire = engine_of(process_set), resolve_compression(compression)
    scales = real(scales[0], "prescale_factor"), real(scales[1], "postscale_factor")
    reduce = engine.grouped_allreduce if grouped else engine.allreduce

    def collective(tensors: list) -> list:
        if wire is Compression.none or engine.size == 1:
            return reduce(tensors, op, names, *scales)
        sent, contexts = zip(*map(wire.compress, tensors), strict=True)
        received = reduce(list(sent), op, names, *scales)
        return [wire.decompress(r, context) for r, context in zip(received, contexts, strict=True)]

    return run_collective(engine, collective, values, arrays=wire is Compression.none) if values else []


def _op(op: ReduceOp | str | None, average: bool | None) -> ReduceOp:
    if op is not None and average is not None:
        raise UsageError("`average` is the old name of `op`: pass one of them.", fix="op=hvd.Average or op=hvd.Sum.")
    if op is None:
        return ReduceOp.SUM if average is False else ReduceOp.AVERAGE
    return ReduceOp.get(op)


def allgather(
    value: Any, name: str | None = None, process_set: ProcessSet | None = None, *, gradient: str = "average"
) -> Any:
    """Concatenate the ranks' values along axis 0, in the order of the ranks; axis 0 may differ between ranks.

    Args:
        value: array, number, ``tf.Tensor`` or Keras variable; with the same dtype and other axes on every rank.
        name: identifies the collective inside a graph.
        process_set: the ranks that take part; None means all.
        gradient: how the ranks' gradients with respect to the gathered value are combined, before each rank takes the
            gradients of its own rows:

            - ``"average"``, as in Horovod: correct if every rank computes the complete loss from all rows, and
              gradients of weights are *summed* over the ranks (``op=hvd.Sum``).
            - ``"sum"``, the gradient of the sum of the ranks' losses: correct if gradients of weights are *averaged*
              over the ranks, which is the default. N ranks with a contrastive loss then train as one process with all
              rows, both if each rank computes the mean loss of its own rows against all rows, and if each rank
              computes the complete loss. Every rank must have the same number of rows: pass ``drop_remainder=True``
              to ``hvd.data.shard``.

    Raises:
        UsageError: ``gradient`` has another value.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.allgather(np.array([[1.0, 2.0]]), gradient="sum").tolist()  # in a single process
    [[1.0, 2.0]]
    """
    if gradient not in ("average", "sum"):
        raise UsageError(f'`gradient` must be "average" or "sum". Received: gradient={gradient!r}.')
    engine = engine_of(process_set)
    value = unwrap_variable(value)
    value = value if is_tensorflow(value) or np.ndim(value) else np.reshape(value, [1])

    def collective(values: list) -> list:
        summed = gradient == "sum" and engine.size > 1 and is_tensorflow(values[0])
        return [engine.allgather(_with_gradient_times(values[0], engine.size) if summed else values[0], name)]

    return run_collective(engine, collective, [value])[0]


def _with_gradient_times(tensor: Any, ranks: int) -> Any:
    """A tensor whose gradient is multiplied: after the mean, on a rank's own rows, so that no half overflows before."""
    import tensorflow as tf

    if not (tensor.dtype.is_floating or tensor.dtype.is_complex):
        return tensor
    multiplied = tf.custom_gradient(lambda x: (tf.identity(x), lambda upstream: upstream * ranks))
    return multiplied(tensor)


def broadcast(value: Any, root_rank: int = 0, name: str | None = None, process_set: ProcessSet | None = None) -> Any:
    """Return the value of ``root_rank`` on every rank. The root is always named by its rank in the world.

    Raises:
        UsageError: there is no such rank.
    """
    engine = engine_of(process_set)
    root_rank = check_root(root_rank, process_set)
    return run_collective(engine, lambda values: [engine.broadcast(values[0], root_rank, name)], [value])[0]


def alltoall(value: Any, splits: Any = None, name: str | None = None, process_set: ProcessSet | None = None) -> Any:
    """Send the first ``splits[0]`` rows to rank 0, the next ``splits[1]`` to rank 1, and so on.

    Args:
        value: has at least one axis; all axes except axis 0 are the same on every rank.
        splits: integers, one per rank, whose sum is the number of rows; None divides the rows evenly.
        name: identifies the collective inside a graph.
        process_set: the ranks that take part; None means all.

    Returns:
        The received rows; if ``splits`` is given, also the number of rows from each rank.
    """
    engine = engine_of(process_set)
    received, rows = run_collective(engine, lambda values: list(engine.alltoall(values[0], splits, name)), [value])
    return received if splits is None else (received, rows)


def reducescatter(
    value: Any,
    name: str | None = None,
    op: ReduceOp | str = ReduceOp.AVERAGE,
    process_set: ProcessSet | None = None,
    *,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Any:
    """Reduce over all ranks and return this rank's part of axis 0; the first ranks get surplus rows.

    Args:
        value: has at least one axis, and the same shape and dtype on every rank.
        name: identifies the collective inside a graph.
        op: as for ``allreduce``, except Adasum.
        process_set: the ranks that take part; None means all.
        prescale_factor, postscale_factor: factors for the values before and after the reduction.

    Raises:
        TypeError: a dtype that Horovod cannot reduce, such as bfloat16.
        UsageError: the value has no axes, or ``op`` is Adasum.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.reducescatter(np.array([1.0, 2.0])).tolist()  # in a single process
    [1.0, 2.0]
    """
    training_begins()
    engine, op = engine_of(process_set), ReduceOp.get(op)
    before, after = real(prescale_factor, "prescale_factor"), real(postscale_factor, "postscale_factor")
    if op is ReduceOp.ADASUM:
        raise UsageError("There is no reducescatter by Adasum.", fix="op=hvd.Average or op=hvd.Sum.")

    def collective(values: list) -> list:
        if values[0].ndim == 0:
            raise UsageError("reducescatter divides axis 0, but the value has no axes.", fix="hvd.allreduce(value).")
        check_reducible(values, name and [name])
        return [scaled(engine.reducescatter(scaled(values[0], before), op, name), after)]

    return run_collective(engine, collective, [value])[0]


def barrier(process_set: ProcessSet | None = None) -> None:
    """Wait until every rank has called it."""
    engine_of(process_set).barrier()
