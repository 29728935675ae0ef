"""``hvd.data.shard``: each rank its part of the data, exactly."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.comm import exchange, world
from hvdkit.comm.consistency import assert_same_on_all_ranks, raise_on_any_rank
from hvdkit.data import classes, epoch_plan, files, streams
from hvdkit.data.arrays import Arrays
from hvdkit.data.sharded import MapStyleData, Sharded
from hvdkit.errors import UsageError
from hvdkit.utils.deprecation import renamed_arguments
from hvdkit.utils.numbers import flag, whole


def _drops(uneven: Any) -> bool:
    if uneven not in ("pad", "drop"):
        raise UsageError(f'`uneven` must be "pad" or "drop". Received: uneven={uneven!r}.')
    return uneven == "drop"


@renamed_arguments(already_split="presharded", uneven=("drop_remainder", _drops))
def shard(
    x: Any,
    y: Any = None,
    *,
    batch_size: int | None = None,
    shuffle: bool | None = None,
    seed: int = 0,
    drop_remainder: bool = False,
    presharded: bool = False,
    sample_weight: Any = None,
    class_weight: dict | str | None = None,
    per_rank_batch: str = "equal",
    parse: Any = None,
    buffer_size: int = 10_000,
) -> Sharded:
    """Shard data over the ranks, so that every sample is used exactly once per epoch.

    Pass the result to ``fit`` or ``evaluate`` as ``x``, or as ``validation_data``. It is collective: call it on every
    rank. A step of N ranks is equivalent to a step of one process with a batch of ``N * batch_size``, even when the
    samples do not divide evenly: each rank's gradient is weighted by its sample count, and a rank that has no samples
    left takes part with weight 0.

    Args:
        x: one of

            - arrays with a sample per row, the same on every rank: everything that ``fit`` accepts, including
              memory-mapped, HDF5, ragged and sparse arrays, and lists, tuples and dicts of them. Lists become tuples,
              as in ``fit``. Step s trains on the s-th ``N * batch_size`` samples of the epoch's order.
            - a ``tf.data.Dataset``, the same on every rank and finite. With ``batch_size`` its elements are samples;
              without it, they are batches, which are given to the ranks in turn.
            - a ``keras.utils.PyDataset``, the same on every rank. Its batches are given to the ranks in turn.
            - file names or globs, ``"train-*.npz"`` (with arrays ``x``, ``y``, ``sample_weight``) or
              ``"train-*.tfrecord"`` (with ``parse``): each rank reads complete files, which are assigned by their
              numbers of samples. The arrays of all files must have the same dtypes; the checksums of records are
              verified.
        y: the targets, if ``x`` is arrays.
        batch_size: samples per step on each rank.
        shuffle: use a new order in each epoch, which depends on ``seed`` and the epoch and is the same on every
            machine. None means True, except for a ``tf.data.Dataset``, for which True fills a buffer of
            ``buffer_size`` elements.
        seed: the seed of the order; the same on every rank.
        drop_remainder: leave out the samples at the end of an epoch that do not fill a step of all ranks. By default
            every sample is used.
        presharded: ``x`` is already this rank's part, which may have any length.
        sample_weight: a weight per sample, if ``x`` is arrays; one array for all outputs, or one for each.
        class_weight: a dict from class to weight (also with text keys as in JSON and YAML: ``{"1": 2.0}``), or
            ``"balanced"``, which uses the classes of all ranks' samples. Only if ``x`` is arrays and ``y`` has one
            output.
        per_rank_batch: ``"auto"`` measures each rank's speed before training and gives slower ranks smaller batches,
            in total ``N * batch_size``. Only if ``x`` is arrays that every rank has.
        parse: converts a batch of serialized records, a string tensor, to ``(x, y)``; for TFRecord files.
        buffer_size: the size of the shuffle buffer of a ``tf.data.Dataset``, in elements.

    Returns:
        This rank's part. It keeps its position, which ``CheckpointCallback`` saves. Arrays and files can resume there
        without reading the earlier samples.

    Raises:
        UsageError: an argument cannot be used, or the data have no samples.
        CommunicationError: the ranks do not have the same data or arguments.

    Example:

    >>> import numpy as np, hvdkit as hvd
    >>> hvd.init()
    >>> train = hvd.data.shard(np.zeros((10, 3)), np.zeros(10), batch_size=4)
    >>> train.num_batches
    3
    """
    batch_size = None if batch_size is None else whole(batch_size, "batch_size", 1, 2**31 - 1)
    seed, buffer_size = whole(seed, "seed", 0, 2**32 - 1), whole(buffer_size, "buffer_size", 1, 2**63 - 1)
    shuffle = None if shuffle is None else flag(shuffle, "shuffle", "True, False or None")
    drop_remainder, presharded = flag(drop_remainder, "drop_remainder"), flag(presharded, "presharded")
    _check_options(per_rank_batch, parse)
    if isinstance(class_weight, str) and class_weight != "balanced":
        raise UsageError(f'`class_weight` must be a dict or "balanced". Received: class_weight={class_weight!r}.')
    options = {
        "batch size": batch_size,
        "seed": seed,
        "uneven": "drop" if drop_remainder else "pad",
        "shuffle": shuffle,
    }
    if isinstance(x, tf.data.Dataset | keras.utils.PyDataset):
        for name, value in {"y": y, "sample_weight": sample_weight, "class_weight": class_weight}.items():
            _refuse(name, value, f"the elements of a {type(x).__name__} hold it")
        if per_rank_batch != "equal":
            raise UsageError("`per_rank_batch` is for arrays.")
        return streams.shard_stream(x, options, presharded=presharded, buffer_size=buffer_size)
    _need_batch_size(batch_size)
    options["shuffle"] = shuffle is not False
    if files.are_file_names(x):
        for name, value in {"y": y, "sample_weight": sample_weight, "class_weight": class_weight}.items():
            _refuse(name, value, "the files hold it")
        opened_files = raise_on_any_rank("open its files", lambda: files.open_files(x, parse), by=streams.SHARD)
        return _shard_presharded(files.own_files(opened_files, parse, presharded=presharded), options)
    if class_weight is not None:
        class_weight = classes.check_class_weights(class_weight, y, presharded=presharded)
    source = raise_on_any_rank("take its arrays", lambda: Arrays(x, y, sample_weight, class_weight), by=streams.SHARD)
    if presharded:
        if per_rank_batch != "equal":
            raise UsageError("`per_rank_batch` is for arrays that every rank has in full.")
        return _shard_presharded(source, options)
    return _shard_global(source, options, per_rank_batch)


def _shard_global(source: Arrays, options: dict, per_rank_batch: str) -> MapStyleData:
    metadata = {**options, "split": False, **source.state()}
    assert_same_on_all_ranks(
        "their data",
        metadata,
        by=streams.SHARD,
        fix="give hvd.data.shard the same arrays in the same order on every rank, or, if each rank has its own part, "
        "presharded=True.",
    )
    _need_samples(source.samples)
    order = source.order(shuffle=options["shuffle"], seeds=(options["seed"],))
    plan = lambda sizes, offset: epoch_plan.global_plan(
        source.samples, sizes, drop=options["uneven"] == "drop", offset=offset
    )
    made = MapStyleData(source, plan, [options["batch size"]] * world.size(), order, metadata)
    _need_steps(made, source.samples, options)
    made.measured = per_rank_batch == "auto"
    return made


def _shard_presharded(source: Any, options: dict) -> MapStyleData:
    metadata = {**options, "split": True}
    fix = "call hvd.data.shard with the same arguments on every rank."
    assert_same_on_all_ranks("how they share their data", metadata, by=streams.SHARD, fix=fix)
    metadata["parts"] = exchange.allgather_object(
        source.state(), f"{streams.SHARD}: the samples of each rank"
    )  # of all ranks: a checkpoint keeps what rank 0 knows
    per_rank = [part["samples"] for part in metadata["parts"]]
    _need_samples(sum(per_rank))
    order = source.order(shuffle=options["shuffle"], seeds=(options["seed"], world.rank()))
    plan = lambda sizes, offset: epoch_plan.per_rank_plan(
        per_rank, sizes, drop=options["uneven"] == "drop", offset=offset
    )
    made = MapStyleData(source, plan, [options["batch size"]] * world.size(), order, metadata)
    _need_steps(made, min(per_rank), options)
    return made


def _check_options(per_rank_batch: str, parse: Any) -> None:
    if parse is not None and not callable(parse):
        raise UsageError(f"`parse` must be a function. Received: parse={parse!r}.")
    if per_rank_batch not in ("equal", "auto"):
        raise UsageError(f'`per_rank_batch` must be "equal" or "auto". Received: per_rank_batch={per_rank_batch!r}.')


def _refuse(name: str, value: Any, why: str) -> None:
    if value is not None:
        raise UsageError(f"`{name}` cannot be given here: {why}.")


def _need_batch_size(batch_size: Any) -> None:
    if batch_size is None:
        raise UsageError("`batch_size` is missing: the samples per step on each rank.", fix="batch_size=32")


def _need_samples(samples: int) -> None:
    if not samples:
        raise UsageError("There are no samples to shard.")


def _need_steps(made: MapStyleData, samples: int, options: dict) -> None:
    if not made.num_batches:
        raise UsageError(
            f"With drop_remainder=True, {samples} samples do not fill one step of {world.size()} ranks with batches of "
            f"{options['batch size']}.",
            fix="drop_remainder=False, or a smaller batch_size.",
        )
