"""Batches that come one after the other, of sizes nobody knows beforehand: ``tf.data``, ``keras.utils.PyDataset``.

How many samples a step has over all ranks, and whether it is the last, is agreed on some steps ahead: every
``LOOK_AHEAD`` steps the ranks exchange the sizes of as many batches, which a thread has read meanwhile. That is one
small exchange in ``LOOK_AHEAD`` steps, and that many batches of memory, twice.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.comm import ops, world
from hvdkit.data.plan import permutation
from hvdkit.data.sharded import DATA, SHARE_OR_ZERO, Sharded
from hvdkit.errors import UsageError
from hvdkit.proof import agree, together

LOOK_AHEAD = 16
SHARD = "hvd.data.shard"


def share_out(x: Any, how: dict[str, Any], *, already_split: bool, buffer_size: int) -> Sharded:
    """This rank's batches of a ``tf.data.Dataset`` or a ``PyDataset``.

    Args:
        x: the data.
        how: ``batch size``, ``seed``, ``uneven``, ``shuffle``.
        already_split: it is this rank's own.
        buffer_size: of a dataset's shuffle, in elements.
    """
    if isinstance(x, keras.utils.PyDataset):
        source = together("look into its data", lambda: _PyBatches(x, how, already_split), by=SHARD)
    else:
        source = together("look into its data", lambda: _Elements(x, how, already_split, buffer_size), by=SHARD)
    facts = {**how, "split": already_split, "kind": type(x).__name__, "length": source.length}
    agree(
        "how they share their data", facts, by=SHARD, fix="call hvd.data.shard with the same arguments on every rank."
    )
    if not already_split and world.size() > 1:
        agree(
            "the first element of their data",
            _digest(source.first()),
            by=SHARD,
            fix="the same data in the same order on every rank: not shuffled before, but by hvd.data.shard(..., "
            "shuffle=True). Where each rank has its own, already_split=True.",
        )
    return Streamed(source, facts)


def _digest(element: Any) -> str:
    digest = hashlib.sha256()
    for leaf in tf.nest.flatten(element):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class _Elements:
    """A ``tf.data.Dataset``; each rank reads all of it and keeps its own."""

    def __init__(self, dataset: tf.data.Dataset, how: dict, already_split: bool, buffer_size: int):
        cardinality = int(dataset.cardinality())
        if cardinality == tf.data.INFINITE_CARDINALITY:
            raise UsageError(
                "The dataset never ends, so it has no epochs to share out.", fix="leave out its `.repeat()`."
            )
        self._dataset, self._how, self._buffer = dataset, how, buffer_size
        self._every = 1 if already_split else world.size()
        self.length = None if cardinality < 0 or already_split else cardinality
        self.spec = self._batched(dataset).element_spec

    def first(self) -> Any:
        """The first element; nothing where there is none."""
        return [tf.nest.map_structure(np.asarray, e) for e in self._dataset.take(1)]

    def _batched(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset if self._how["batch size"] is None else dataset.batch(self._how["batch size"])

    def batches(self, epoch: int, passed: int) -> Iterator[Any]:
        dataset = self._dataset
        if self._how["shuffle"]:
            seed = int(np.random.SeedSequence([self._how["seed"], epoch]).generate_state(1)[0])
            dataset = dataset.shuffle(self._buffer, seed=seed, reshuffle_each_iteration=False)
        dataset = dataset.skip(passed)
        if self._every > 1:
            dataset = dataset.shard(self._every, world.rank())
        return iter(self._batched(dataset).prefetch(2))

    def passed(self, steps: int) -> int:
        """The elements of all ranks that so many steps take."""
        return steps * self._every * (self._how["batch size"] or 1)


class _PyBatches:
    """A ``PyDataset``, whose batches are asked for by their numbers."""

    def __init__(self, dataset: keras.utils.PyDataset, how: dict, already_split: bool):
        if how["batch size"] is not None:
            raise UsageError("A PyDataset makes its own batches: leave out `batch_size`.")
        if dataset.num_batches is None:
            raise UsageError("The PyDataset never ends (num_batches is None), so it has no epochs to share out.")
        if not dataset.num_batches and not already_split:
            raise UsageError("There are no samples to share out.")
        self._dataset, self._how, self._split = dataset, how, already_split
        self.length = None if already_split else int(dataset.num_batches)
        example = self._batch(0) if dataset.num_batches else None
        if example is None:
            raise UsageError(
                "A rank's own PyDataset needs at least one batch, to know its samples by.",
                fix="give that rank a tf.data.Dataset or arrays, which know their kind without any.",
            )
        self.spec = tf.nest.map_structure(lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), example)

    def first(self) -> Any:
        """The first batch."""
        return self._batch(0)

    def _batch(self, number: int) -> Any:
        batch = self._dataset[number]
        batch = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        return tf.nest.map_structure(np.asarray, batch)

    def passed(self, steps: int) -> int:
        """The batches of all ranks that so many steps take."""
        return steps if self._split else steps * world.size()

    def batches(self, epoch: int, passed: int) -> Iterator[Any]:
        n = int(self._dataset.num_batches)
        rank, every = (0, 1) if self._split else (world.rank(), world.size())
        own = (self._how["seed"], *((world.rank(),) if self._split else ()), epoch)
        order = np.arange(n) if self._how["shuffle"] is False else permutation(n, *own)
        for number in order[passed:][rank::every]:
            yield self._batch(int(number))
        self._dataset.on_epoch_end()


class Streamed(Sharded):
    """Data whose batches are agreed on while they are read.

    Args:
        source: makes this rank's batches of an epoch, from a step on.
        facts: what a resume in the middle of an epoch depends on.
    """

    def __init__(self, source: Any, facts: dict[str, Any]):
        super().__init__(facts)
        self._source = source
        self._spec = tf.nest.map_structure(_any_number, source.spec)
        self._reading: _Reading | None = None

    def place(self, steps: int) -> dict[str, Any]:
        """Where the data are after so many steps since ``begin``."""
        passed = self.passed + self._source.passed(steps)
        over = self._reading is not None and self._reading.is_over(steps)
        return {"passed": passed, "over": over, "ranks": world.size(), "facts": self.facts()}

    @property
    def num_batches(self) -> None:
        return None  # known at the end of an epoch; Keras goes on until the data end

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        self.stop()
        drop = self._facts["uneven"] == "drop"
        self._reading = _Reading(self._source.batches(epoch, self.passed), drop=drop)

    def stop(self) -> None:
        """End the reading of an epoch that was broken off."""
        if self._reading is not None:
            self._reading.stop()
            self._reading = None

    def has_step(self, step: int, at_once: int = 1) -> bool:
        # Before the last batches that are agreed on are taken, so that nobody waits for the exchange.
        self._reading.agree_until(step + at_once + LOOK_AHEAD // 2)
        return not self._reading.is_over(step)

    def get_tf_dataset(self) -> tf.data.Dataset:
        weighed = world.size() > 1
        spec = {DATA: self._spec, SHARE_OR_ZERO: tf.TensorSpec((None,), tf.float32)} if weighed else self._spec

        def generate() -> Iterator:
            for batch, share in self._reading.shared_batches(self._spec):
                shares = np.full(_samples(batch), share, np.float32)
                yield {DATA: batch, SHARE_OR_ZERO: shares} if weighed else batch

        return tf.data.Dataset.from_generator(generate, output_signature=spec)


class _Reading:
    """One epoch: a thread reads batches, the main thread agrees on their shares, TensorFlow takes them."""

    def __init__(self, batches: Iterator, *, drop: bool):
        self._batches, self._drop = batches, drop
        self._read: deque = deque()  # read, and not agreed on
        self._shares: deque = deque()  # agreed on, and not taken; None at the end
        self._agreed = 0  # steps that are agreed on
        self._over = self._all_read = self._stopped = False
        self._error: BaseException | None = None
        self._change = threading.Condition()
        threading.Thread(target=self._reader, daemon=True, name="hvdkit-data").start()

    def is_over(self, steps: int) -> bool:
        """Whether so many steps are all, as far as has been agreed."""
        return self._over and steps >= self._agreed

    def _unshared(self) -> int:
        return len(self._read) - len(self._shares)

    def _reader(self) -> None:
        try:
            for batch in self._batches:
                arrays = tf.nest.map_structure(np.asarray, batch)
                with self._change:
                    self._change.wait_for(lambda: self._unshared() < 2 * LOOK_AHEAD or self._stopped)
                    if self._stopped:
                        return
                    if _samples(arrays):
                        self._read.append(arrays)
                    self._change.notify_all()
        except BaseException as error:  # noqa: BLE001  raised in the main thread, on every rank
            self._error = error
        finally:
            with self._change:
                self._all_read = True
                self._change.notify_all()

    def agree_until(self, step: int) -> None:
        while not self._over and self._agreed < step:
            with self._change:
                self._change.wait_for(lambda: self._unshared() >= LOOK_AHEAD or self._all_read)
                ahead = len(self._shares)
                mine = [_samples(b) for b in list(self._read)[ahead : ahead + LOOK_AHEAD]]
            self._exchange(mine)

    def _exchange(self, mine: list[int]) -> None:
        error = None if self._error is None else str(self._error) or repr(self._error)
        everyones = ops.allgather_object({"samples": mine, "error": error}, f"{SHARD}: the sizes of the next batches")
        for rank, theirs in enumerate(everyones):
            if theirs["error"]:
                self.stop()
                if self._error is not None:
                    raise self._error
                raise UsageError(f"Rank {rank} could not read its data: {theirs['error']}", rank=world.rank())
        lengths = [len(theirs["samples"]) for theirs in everyones]
        steps = min(lengths) if self._drop else max(lengths)
        counts = np.array([[*theirs["samples"], *[0] * LOOK_AHEAD][:steps] for theirs in everyones], float)
        with self._change:
            for i in range(steps):
                own = counts[world.rank(), i]
                self._shares.append(own * len(everyones) / counts[:, i].sum())
            self._agreed += steps
            if steps < LOOK_AHEAD:
                self._over = True
                self._shares.append(None)
            self._change.notify_all()

    def shared_batches(self, spec: Any) -> Iterator[tuple[Any, float]]:
        """This rank's batches and their shares; with share 0, something of the right shape."""
        last = None
        while True:
            with self._change:
                self._change.wait_for(lambda: self._shares or self._stopped)
                if self._stopped:
                    return
                share = self._shares.popleft()
                if share is None:
                    return
                if share:
                    last = self._read.popleft()
                self._change.notify_all()
            if share:
                yield last, share
            else:
                yield _stand_in(spec, last), 0.0

    def stop(self) -> None:
        with self._change:
            self._stopped = True
            self._change.notify_all()


def _samples(batch: Any) -> int:
    return len(tf.nest.flatten(batch)[0])


def _any_number(spec: tf.TypeSpec) -> tf.TensorSpec:
    return tf.TensorSpec((None, *spec.shape[1:]), spec.dtype)


def _stand_in(spec: Any, last: Any) -> Any:
    if last is not None:
        return tf.nest.map_structure(lambda a: a[:1], last)
    shape = lambda s: (1, *(1 if n is None else n for n in s.shape[1:]))
    return tf.nest.map_structure(lambda s: np.zeros(shape(s), s.dtype.as_numpy_dtype), spec)
