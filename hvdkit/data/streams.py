"""Batches that come one after the other, of sizes unknown beforehand: ``tf.data``, ``keras.utils.PyDataset``.

How many samples a step has over all ranks, and whether it is the last, is agreed on meanwhile: ``reading.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.comm import world
from hvdkit.comm.consistency import assert_same_on_all_ranks, raise_on_any_rank
from hvdkit.data import kinds
from hvdkit.data.epoch_plan import permutation
from hvdkit.data.reading import LOOK_AHEAD, SHARD, Reading
from hvdkit.data.sharded import DATA, WEIGHT_OR_ZERO, Sharded
from hvdkit.errors import UsageError

_LARGEST_BUFFER = 1 << 27  # 3 GiB before there is an element in it


def shard_stream(x: Any, options: dict[str, Any], *, presharded: bool, buffer_size: int) -> Sharded:
    """This rank's batches of a ``tf.data.Dataset`` or a ``PyDataset``.

    Args:
        x: the data.
        options: ``batch size``, ``seed``, ``uneven``, ``shuffle``.
        presharded: it is this rank's own.
        buffer_size: of a dataset's shuffle, in elements.
    """
    if isinstance(x, keras.utils.PyDataset):
        source = raise_on_any_rank("inspect its data", lambda: _PyBatches(x, options, presharded), by=SHARD)
    else:
        source = raise_on_any_rank("inspect its data", lambda: _Elements(x, options, presharded, buffer_size), by=SHARD)
    metadata = {**options, "split": presharded, "kind": type(x).__name__, "length": source.length}
    assert_same_on_all_ranks(
        "how they share their data",
        metadata,
        by=SHARD,
        fix="call hvd.data.shard with the same arguments on every rank.",
    )
    if not presharded and world.size() > 1:
        assert_same_on_all_ranks(
            "the first element of their data",
            kinds.digest(source.first()),
            by=SHARD,
            fix="the same data in the same order on every rank: not shuffled before, but by hvd.data.shard(..., "
            "shuffle=True). Where each rank has its own, presharded=True.",
        )
    return IterableData(source, metadata)


class _Elements:
    """A ``tf.data.Dataset``; each rank reads all of it and keeps its own."""

    def __init__(self, dataset: tf.data.Dataset, options: dict, presharded: bool, buffer_size: int):
        cardinality = int(dataset.cardinality())
        if cardinality == tf.data.INFINITE_CARDINALITY:
            raise UsageError("The dataset never ends, so it has no epochs.", fix="leave out its `.repeat()`.")
        kinds.check_components(dataset.element_spec)
        self._dataset, self._options = dataset, options
        self._buffer = buffer_size if cardinality < 0 else min(buffer_size, max(cardinality, 1))
        if self._buffer > _LARGEST_BUFFER and options["shuffle"]:
            raise UsageError(
                f"`buffer_size` is {buffer_size}, and the length of the dataset is unknown: TensorFlow takes memory "
                "for as many elements before the first one is read.",
                fix=f"use at most {_LARGEST_BUFFER}, or set the length with tf.data.experimental.assert_cardinality.",
            )
        self._every = 1 if presharded else world.size()
        self.length = None if cardinality < 0 or presharded else cardinality
        self.spec = self._batched(dataset).element_spec
        kinds.check_samples(self.spec)

    def first(self) -> Any:
        """The first element; nothing where there is none."""
        return list(self._dataset.take(1))

    def begin_epoch(self) -> None:
        """A dataset is told nothing of epochs."""

    def end_epoch(self) -> None:
        """A dataset is told nothing of epochs."""

    def _batched(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset if self._options["batch size"] is None else dataset.batch(self._options["batch size"])

    def batches(self, epoch: int, offset: int) -> Iterator[Any]:
        dataset = self._dataset
        if self._options["shuffle"]:
            seed = int(np.random.SeedSequence([self._options["seed"], epoch]).generate_state(1)[0])
            dataset = dataset.shuffle(self._buffer, seed=seed, reshuffle_each_iteration=False)
        dataset = dataset.skip(offset)
        if self._every > 1:
            dataset = dataset.shard(self._every, world.rank())
        return iter(self._batched(dataset).prefetch(2))

    def offset_after(self, steps: int) -> int:
        """The elements of all ranks that so many steps take."""
        return steps * self._every * (self._options["batch size"] or 1)


class _PyBatches:
    """A ``PyDataset``, whose batches are asked for by their numbers."""

    def __init__(self, dataset: keras.utils.PyDataset, options: dict, presharded: bool):
        if options["batch size"] is not None:
            raise UsageError("A PyDataset makes its own batches: leave out `batch_size`.")
        self._dataset, self._options, self._presharded = dataset, options, presharded
        length = self._length()
        if not length and not presharded:
            raise UsageError("There are no samples to shard.")
        self.length = None if presharded else length
        if not length:
            raise UsageError(
                "A rank's own PyDataset needs at least one batch, which shows what its samples are.",
                fix="give that rank a tf.data.Dataset or arrays, which know their kind without any.",
            )
        examples = [self._batch(number) for number in range(min(length, 2))]  # as many as Keras looks at
        self.spec = kinds.spec_of(examples)
        kinds.check_components(self.spec)
        kinds.check_samples(self.spec)
        self._first = examples[0]

    def first(self) -> Any:
        """The first batch; to be had once."""
        return self.__dict__.pop("_first")

    def _length(self) -> int:
        length = self._dataset.num_batches
        if length is None:
            raise UsageError("The PyDataset never ends (num_batches is None), so it has no epochs.")
        return int(length)

    def _batch(self, number: int) -> Any:
        batch = self._dataset[number]
        return kinds.tensors_of(tuple(batch) if isinstance(batch, tuple | list) else (batch,))

    def begin_epoch(self) -> int | None:
        """Let the user choose what is in the epoch; how many batches that are, where all ranks have the same."""
        self._dataset.on_epoch_begin()
        length = self._length()
        if not length and not self._presharded:
            raise UsageError("The PyDataset has no batches in this epoch.")
        return None if self._presharded else length

    def end_epoch(self) -> None:
        """Tell the user that the epoch is over."""
        self._dataset.on_epoch_end()

    def offset_after(self, steps: int) -> int:
        """The batches of all ranks that so many steps take."""
        return steps if self._presharded else steps * world.size()

    def batches(self, epoch: int, offset: int) -> Iterator[Any]:
        n = self._length()
        rank, every = (0, 1) if self._presharded else (world.rank(), world.size())
        own = (self._options["seed"], *((world.rank(),) if self._presharded else ()), epoch)
        order = np.arange(n) if self._options["shuffle"] is False else permutation(n, *own)
        for number in order[offset:][rank::every]:
            yield self._batch(int(number))


class IterableData(Sharded):
    """Data whose batches are agreed on while they are read.

    Args:
        source: makes this rank's batches of an epoch, from a step on.
        metadata: what a resume in the middle of an epoch depends on.
    """

    def __init__(self, source: Any, metadata: dict[str, Any]):
        super().__init__(metadata)
        self._source = source
        self._spec = tf.nest.map_structure(kinds.any_number, source.spec)
        self._reading: Reading | None = None

    def place(self, steps: int) -> dict[str, Any]:
        """Where the data are after so many steps since ``begin``."""
        offset = self.offset + self._source.offset_after(steps)
        over = self._reading is not None and self._reading.is_over(steps)
        return {"passed": offset, "over": over, "ranks": world.size(), "facts": self.metadata()}

    @property
    def num_batches(self) -> None:
        return None  # known at the end of an epoch; Keras trains until the data end

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        if self._reading is not None:
            self._reading.finish()
        drop = self._metadata["uneven"] == "drop"
        self._reading = Reading(self._source, lambda: self._source.batches(self.epoch, self.offset), drop=drop)

    def stop(self) -> None:
        """End the reading of an epoch that was interrupted."""
        if self._reading is not None:
            self._reading.stop()
            self._reading = None

    def has_step(self, step: int, at_once: int = 1) -> bool:
        # Before the last batches that are agreed on are taken, so that no rank waits for the exchange.
        self._reading.agree_until(step + at_once + LOOK_AHEAD // 2)
        if not self._reading.is_over(step):
            return True
        self._reading.finish()
        raise_on_any_rank("end its epoch", self._source.end_epoch, by=SHARD)
        return False

    def get_tf_dataset(self) -> tf.data.Dataset:
        weighed = world.size() > 1
        spec = {DATA: self._spec, WEIGHT_OR_ZERO: tf.TensorSpec((None,), tf.float32)} if weighed else self._spec

        def generate() -> Iterator:
            for batch, weight in self._reading.weighted_batches(self._spec):
                weights = np.full(kinds.count_samples(batch), weight, np.float32)
                yield {DATA: batch, WEIGHT_OR_ZERO: weights} if weighed else batch

        return tf.data.Dataset.from_generator(generate, output_signature=spec)
