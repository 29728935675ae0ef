"""What ``hvd.data.shard`` returns: this rank's part of the data, as Keras takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from hvdkit.comm import world
from hvdkit.data.epoch_plan import EpochPlan
from hvdkit.errors import UsageError
from hvdkit.keras_internals.data import DataAdapter
from hvdkit.utils.deprecation import warn_deprecated
from hvdkit.utils.numbers import whole

# The keys of a batch on its way to the train step (``feed.py`` takes them off again).
DATA, WEIGHT, WEIGHT_OR_ZERO = "hvdkit_data", "hvdkit_batch_weight", "hvdkit_batch_weight_or_zero"


class Source(Protocol):
    """Samples that can be had by their numbers."""

    samples: int
    failure: Exception | None
    """Why samples could not be had, when they could not."""

    def forget_failure(self) -> None:
        """Have none from here on."""

    def order(self, *, shuffle: bool, seeds: tuple[int, ...]) -> Callable[[int], np.ndarray]:
        """The samples' numbers in the order of an epoch, as a function of the epoch."""

    def take(self, rows: tf.Tensor) -> Any:
        """The samples with these numbers: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``; called in a graph."""

    def state(self) -> dict[str, Any]:
        """What tells this data from other data, as JSON-like data."""


class Sharded(DataAdapter):
    """This rank's part of the data; pass it to ``fit`` or ``evaluate`` as ``x``, or as ``validation_data``.

    It is created by ``hvd.data.shard``.

    Attributes:
        epoch: the epoch whose samples come next, counted from 0; ``fit`` sets it.
        offset: where it begins: at 0, but after a resume in its middle.
    """

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.epoch = 0
        self.offset = 0
        self._metadata = metadata
        self._resume: tuple[int, dict[str, Any]] | None = None

    def begin(self, epoch: int) -> None:
        """Go to an epoch, and to the position in it that ``seek`` asked for."""
        self.failure()  # forgets that of an epoch that was left
        self.epoch, self.offset = whole(epoch, "epoch", 0), 0
        if self._resume is not None:
            if self._resume[0] == epoch:
                self.offset = int(self._resume[1]["passed"])
            self._resume = None

    @property
    def passed(self) -> int:
        """Deprecated: ``offset``."""
        warn_deprecated(f"{type(self).__name__}.passed", "offset")
        return self.offset

    def metadata(self) -> dict[str, Any]:
        """What must be the same for a resume in the middle of an epoch."""
        return dict(self._metadata)

    def seek(self, epoch: int, place: dict[str, Any]) -> None:
        """Let an epoch, when it comes, begin in its middle."""
        own_metadata, saved_metadata = self.metadata(), place.get("facts", {})
        if self._metadata["split"]:  # each rank's own samples: another rank cannot continue with them
            own_metadata["ranks"], saved_metadata = world.size(), {"ranks": place.get("ranks"), **saved_metadata}
        differing = sorted(k for k in {*own_metadata, *saved_metadata} if own_metadata.get(k) != saved_metadata.get(k))
        if place.get("passed") and differing:
            what = "; ".join(f"{k} was {saved_metadata.get(k)!r} and is {own_metadata.get(k)!r}" for k in differing)
            raise UsageError(
                f"A training cannot resume in the middle of an epoch with different data: {what}.",
                fix="shard the same data with the same arguments (of data that is split already, on as many ranks), "
                "or restore a checkpoint from the end of an epoch.",
            )
        self._resume = (epoch, place)

    @property
    def num_batches(self) -> int | None:
        """The steps of the epoch that runs, from where it began; None if their number is unknown."""
        raise NotImplementedError

    @property
    def batch_size(self) -> int | None:
        return None

    @property
    def has_partial_batch(self) -> None:
        return None

    @property
    def partial_batch_size(self) -> None:
        return None

    def has_step(self, step: int, at_once: int = 1) -> bool:
        """Whether the running epoch has a step; the same on every rank, and collective for streams.

        Args:
            step: counted from where the epoch began in this process.
            at_once: how many steps are made together.
        """
        raise NotImplementedError

    def batches(self, epoch: int) -> Iterator[tuple[Any, tf.Tensor]]:
        """The batches of an epoch with their weights, for a custom training loop.

        Yields:
            ``(x, y)`` and the factor for the rank's mean loss, before its gradients are averaged over the ranks. If the
            weight is 0, the batch is a placeholder, because the rank has no samples left.

        Example:

        >>> import numpy as np, hvdkit as hvd
        >>> hvd.init()
        >>> data = hvd.data.shard(np.arange(3.0), batch_size=2, shuffle=False)
        >>> [(batch.numpy().tolist(), float(weight)) for batch, weight in data.batches(0)]
        [([0.0, 1.0], 1.0), ([2.0], 1.0)]
        """
        self.begin(epoch)
        iterator, step = iter(self.get_tf_dataset()), 0
        while self.has_step(step):
            with failures_of(self):
                batch = next(iterator)
            yield unpack_weighted_batch(batch)
            step += 1

    def failure(self) -> Exception | None:
        """Why the data could not be read, where TensorFlow raised it with its own account around it; once."""
        return None


@contextlib.contextmanager
def failures_of(*given: Sharded | None) -> Iterator[None]:
    """Raise the error of reading the data as it was, and not TensorFlow's own account of it."""
    try:
        yield
    except tf.errors.OpError as error:
        for data in given:
            failure = None if data is None else data.failure()
            if failure is not None and type(failure).__name__ in str(error):  # else it is the caller's own
                raise failure from error
        raise


def unpack_weighted_batch(batch: Any) -> tuple[Any, tf.Tensor]:
    """A batch and its weight, as they come from the dataset."""
    if not isinstance(batch, dict) or DATA not in batch:
        return batch, tf.constant(1.0)
    return batch[DATA], batch.get(WEIGHT, batch.get(WEIGHT_OR_ZERO))[0]


class MapStyleData(Sharded):
    """Data whose samples are counted: every rank knows the whole epoch's steps before it begins.

    Args:
        source: where the samples come from.
        plan: makes the steps from the batch sizes of the ranks, and from the offset in the epoch: samples of all
            ranks, or, of presharded data, steps.
        sizes: the batch size of each rank.
        order: the numbers of this rank's source in the order of an epoch.
        metadata: what a resume in the middle of an epoch depends on; the same on every rank.

    Attributes:
        plan: of the epoch that runs.
        measured: whether the sizes are to be measured before training.
    """

    def __init__(
        self,
        source: Source,
        plan: Callable[[list[int], int], EpochPlan],
        sizes: list[int],
        order: Callable[[int], np.ndarray],
        metadata: dict[str, Any],
    ):
        super().__init__(metadata)
        self.source = source
        self.measured = False
        self._order, self._make = order, plan
        self.resize(sizes)

    def resize(self, sizes: list[int]) -> None:
        """Give the ranks other batch sizes, with the same sum, from the next epoch on."""
        self.sizes = list(sizes)
        self._whole = self.plan = self._make(self.sizes, 0)

    def begin(self, epoch: int) -> None:
        super().begin(epoch)
        self.plan = self._make(self.sizes, self.offset) if self.offset else self._whole

    def place(self, steps: int) -> dict[str, Any]:
        """Where the data are after so many steps since ``begin``."""
        of_all = steps if self._metadata["split"] else int(self.plan.counts[:steps].sum())
        offset, over = self.offset + of_all, steps >= self.plan.steps
        return {
            "passed": offset,
            "over": over,
            "sizes": list(self.sizes),
            "ranks": world.size(),
            "facts": self.metadata(),
        }

    def seek(self, epoch: int, place: dict[str, Any]) -> None:
        super().seek(epoch, place)
        sizes = place.get("sizes", [])
        if len(sizes) == world.size() and sum(sizes) == sum(self.sizes):
            self.resize(sizes)
            self.measured = False

    @property
    def num_batches(self) -> int:
        """The steps of the epoch that runs, from where it began."""
        return self.plan.steps

    def __len__(self) -> int:
        """The steps of a whole epoch, on every rank."""
        return self._whole.steps

    def has_step(self, step: int, at_once: int = 1) -> bool:
        return step < self.plan.steps

    def failure(self) -> Exception | None:
        failure = self.source.failure
        self.source.forget_failure()
        return failure

    @property
    def uniform(self) -> bool:
        """Whether every rank has as many samples as the others in every step."""
        return bool((self._whole.weights() == 1).all())

    def rows(self, epoch: int, plan: EpochPlan | None = None) -> list[np.ndarray]:
        """The numbers of this rank's samples, step by step: of a whole epoch, or by a plan of a part of it."""
        order, rank, plan = self._order(whole(epoch, "epoch", 0)), world.rank(), plan or self._whole
        return [order[b : b + c] for b, c in zip(plan.begins[:, rank], plan.counts[:, rank], strict=True)]

    def get_tf_dataset(self) -> tf.data.Dataset:
        weighed = world.size() > 1
        key = WEIGHT_OR_ZERO if self._whole.has_empty else WEIGHT

        def epoch(_):
            made = tf.numpy_function(self._epoch, [], [tf.int64, tf.int64, tf.float32])
            rows, cuts, weights = (tf.ensure_shape(vector, (None,)) for vector in made)

            def batch(step):
                chosen = rows[cuts[step] : cuts[step + 1]]
                data = self.source.take(chosen)
                # As many weights as samples, so that a strategy can cut the batch up for its replicas.
                return {DATA: data, key: tf.fill(tf.shape(chosen), weights[step])} if weighed else data

            steps = tf.data.Dataset.range(tf.shape(weights, tf.int64)[0])
            return steps.map(batch, num_parallel_calls=2, deterministic=True)

        return tf.data.Dataset.from_tensors(0).flat_map(epoch).prefetch(2)

    def _epoch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is left of the epoch: all its rows, where each step's begin, and its weights."""
        rows = self.rows(self.epoch, self.plan)
        rows = [r if len(r) else np.zeros(1, np.int64) for r in rows]  # a stand-in, which weighs nothing
        cuts = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
        weights = self.plan.weights()[:, world.rank()].astype(np.float32)
        return np.concatenate([*rows, np.zeros(0, np.int64)]), cuts, weights
