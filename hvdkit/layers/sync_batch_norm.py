"""``hvd.SyncBatchNormalization``: batch normalization with the statistics of all ranks' batches together."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from hvdkit.comm import process_sets, world
from hvdkit.comm.engine import Engine, ReduceOp
from hvdkit.comm.ordering import CollectiveOrder
from hvdkit.comm.process_sets import ProcessSet
from hvdkit.errors import UsageError
from hvdkit.grads import batch_weight, replica_context
from hvdkit.grads.tape_pipelines import call_index
from hvdkit.keras_internals.layers import BatchNormalization

_ordinals: dict[int, itertools.count] = collections.defaultdict(itertools.count)


@keras.saving.register_keras_serializable(package="hvdkit")
class SyncBatchNormalization(BatchNormalization):
    """``keras.layers.BatchNormalization`` that trains on the statistics of the global batch: of all ranks together.

    In training, N ranks do what one process with a plain ``BatchNormalization`` does with their batches put together,
    forwards and backwards: every row that is not masked weighs the same, also where ranks have batches of different
    sizes. ``moving_mean`` and ``moving_variance`` stay equal on all ranks, bit for bit. As in any layer, the gradients
    of ``gamma`` and ``beta`` are this rank's part: ``hvd.DistributedOptimizer`` joins them.

    Statistics are computed and sent in float32 (float64 in a float64 layer), also under ``mixed_float16`` and
    ``mixed_bfloat16``: four numbers per channel and rank (a count, a centre, the sums of the distances from it and of
    their squares), which are put together without the cancellation of ``E[x^2] - E[x]^2``. One collective forwards,
    one backwards. A fully masked or empty batch counts nothing; where all are, mean and variance are 0.

    It is exactly ``keras.layers.BatchNormalization`` in a world of one, on a rank outside ``process_set``, at inference
    (``training=False``), and while it is frozen (``trainable=False``).

    Every rank trains the same layers in the same order. Second derivatives through the statistics (a gradient penalty)
    are refused on several ranks.

    It is saved as ``hvdkit>SyncBatchNormalization``, its process set as the list of its ranks. ``hvd.load_model`` finds
    the class, Keras' own function once ``hvd.SyncBatchNormalization`` was named in the program. The saved ranks matter
    only when it trains on several ranks again; then the registered set with these ranks is used.

    Args:
        fused: Horovod's switch; there is no fused kernel that synchronizes, so it must be False.
        process_set: the ranks whose batches belong together: a ``hvd.ProcessSet``, alive when the layer first trains,
            or its ranks. Default None: all ranks.
        kwargs: the arguments of ``keras.layers.BatchNormalization``, all by keyword: ``axis=-1``, ``momentum=0.99``,
            ``epsilon=1e-3``, ``center=True``, ``scale=True``, initializers, regularizers, constraints, ``name``,
            ``dtype``, ... But for ``synchronized=True``, which is for ``tf.distribute``, and for ``renorm=True``.

    Call arguments:
        inputs: a tensor of any shape, with the channels on ``axis``; the number of channels is that of all ranks.
        training: Python bool; True normalizes with the statistics of the global batch and updates the moving ones.
        mask: a tensor of bools of shape ``inputs.shape[:-1]``: False leaves a place out of the statistics.

    Raises:
        UsageError: ``fused``, ``synchronized`` or ``renorm`` is set, or ``process_set`` is no process set; when it
            trains, that there is no registered process set with these ranks.
        NotInitializedError: it trains before ``hvd.init()``.

    Example:

    >>> import numpy as np, hvdkit as hvd
    >>> hvd.init()
    >>> layer = hvd.SyncBatchNormalization(axis=-1, epsilon=1e-5)
    >>> y = layer(np.float32([[1.0], [3.0]]), training=True)  # in a single process
    >>> np.round(y, 3).tolist()
    [[-1.0], [1.0]]

    Reference: Ioffe and Szegedy, *Batch Normalization* (2015), https://arxiv.org/abs/1502.03167. The combination
    of partial statistics: Chan, Golub and LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances*
    (1979).
    """

    def __init__(
        self, *, fused: bool = False, process_set: ProcessSet | Iterable[int] | None = None, **kwargs: Any
    ) -> None:
        if fused or fused is None:
            raise UsageError(
                f"SyncBatchNormalization has no fused kernel. Received: fused={fused}.", fix="leave out `fused`."
            )
        if kwargs.get("synchronized"):
            raise UsageError(
                "`synchronized=True` synchronizes replicas of tf.distribute; this layer synchronizes ranks anyway.",
                fix="leave out `synchronized`.",
            )
        if kwargs.get("renorm"):
            raise UsageError(
                "SyncBatchNormalization has no batch renormalization: it is for batches that are too small, and the "
                "global batch is larger than a rank's.",
                fix="leave out `renorm`, or use keras.layers.BatchNormalization(renorm=True).",
            )
        super().__init__(**kwargs)
        self._ranks = _ranks_of(process_set)  # the set itself is looked up when it is needed, as after loading
        self._collective: str | None = None
        self._order: tuple[CollectiveOrder, CollectiveOrder] | None = None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "process_set": self._ranks and list(self._ranks)}

    def moments(self, inputs: tf.Tensor, mask: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance per channel, [C] each; what Keras' ``call`` asks for in training, in float32 or float64."""
        if world.size() == 1 or (self._ranks is not None and world.rank() not in self._ranks):
            return super().moments(inputs, mask)
        process_set = (
            process_sets.global_process_set if self._ranks is None else process_sets.find_registered(self._ranks)
        )
        engine = process_sets.engine_of(process_set)
        if engine.size == 1:
            return super().moments(inputs, mask)
        if replica_context.is_active():
            raise UsageError(
                "SyncBatchNormalization synchronizes ranks, not the replicas of a tf.distribute strategy.",
                fix="inside a strategy use keras.layers.BatchNormalization(synchronized=True), for one process.",
            )
        if self._collective is None:
            # The number of layers that trained before it in this set, not that were built: a rank may have built, or
            # loaded, a model more. Each set counts for itself: a rank outside one never comes here.
            number = process_set.process_set_id
            self._collective = f"hvdkit.syncbn.{number}.{next(_ordinals[number])}"
            self._order = CollectiveOrder(), CollectiveOrder()
        # A layer may be called several times in a graph, and its collectives are then under way at once.
        name = f"{self._collective}{call_index(self._collective)}"
        count, centre, first, second = _own_sums(inputs, mask, self.axis)
        weight = batch_weight.current()
        if weight is not None and weight.may_be_zero:  # a stand-in's samples do not count
            has_samples = weight.value > 0
            count, centre, first, second = (
                tf.where(has_samples, n, tf.zeros_like(n)) for n in (count, centre, first, second)
            )
        return _merged_moments(engine, name, self._order, count, centre, weight=weight)(first, second)


def _ranks_of(process_set: ProcessSet | Iterable[int] | None) -> tuple[int, ...] | None:
    if process_set is None or process_set is process_sets.global_process_set:
        return None
    if not isinstance(process_set, ProcessSet):
        process_set = ProcessSet(process_set)
    if process_set.ranks is None:
        raise UsageError(
            "A process set made of a communicator has no ranks before it is registered.",
            fix="call hvd.init(process_sets=[...]) before creating the layer.",
        )
    return tuple(process_set.ranks)


def _own_sums(inputs: tf.Tensor, mask: Any, axis: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of this rank's batch, per channel, [C] each: how many there are, a centre (their mean, as far as its dtype can
    say), the sum of their distances from it, and the sum of the squares of these."""
    rank, dtype = inputs.shape.rank, inputs.dtype
    shape, channel = tf.shape(inputs), axis % rank
    others = [a for a in range(rank) if a != channel]
    if mask is None:
        keep = lambda x: x
        rows = tf.reduce_prod([tf.cast(shape[a], tf.int64) for a in others])
        count = tf.fill([shape[channel]], tf.cast(rows, dtype))
    else:
        kept = tf.broadcast_to(tf.cast(mask, tf.bool)[..., None], shape)
        keep = lambda x: tf.where(kept, x, tf.zeros([], dtype))
        count = tf.reduce_sum(tf.cast(kept, dtype), others)
    # Any centre gives the same statistics: nothing depends on it, and no gradient goes through it.
    centre = tf.math.divide_no_nan(tf.reduce_sum(keep(tf.stop_gradient(inputs)), others), count)
    distance = keep(inputs - tf.reshape(centre, [shape[a] if a == channel else 1 for a in range(rank)]))
    return count, centre, tf.reduce_sum(distance, others), tf.reduce_sum(tf.square(distance), others)


def _merged_moments(
    engine: Engine,
    name: str,
    order: tuple[CollectiveOrder, CollectiveOrder],
    count: tf.Tensor,
    centre: tf.Tensor,
    *,
    weight: batch_weight.BatchWeight | None,
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function of this rank's two sums of distances: mean and variance over all ranks, [C] each."""

    @tf.custom_gradient
    def merged_moments(first: tf.Tensor, second: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable]:
        own = tf.stack([count, centre, first, second])
        # Gathered, not summed: every rank then does the same arithmetic on the same numbers.
        with order[0].next() as made:
            made.append(engine.allgather(own[None], name))
        everyone = tf.reshape(made[0], [engine.size, *own.shape])
        counts, centres, firsts, seconds = tf.unstack(everyone, axis=1)
        total = tf.reduce_sum(counts, 0)
        # The centres may be large and their differences small: all is measured from one of them. The sums of distances
        # hold what a centre's rounding lost, which would else be part of the variance.
        base = centres[0]
        shift = tf.math.divide_no_nan(tf.reduce_sum(counts * (centres - base) + firsts, 0), total)
        off = centres - base - shift  # each centre from the global mean
        squares = tf.reduce_sum(seconds + 2 * off * firsts + counts * tf.square(off), 0)
        variance = tf.math.divide_no_nan(squares, total)

        def gradient(of_mean: tf.Tensor, of_variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Every rank's loss depends on these statistics, and so on this rank's inputs.
            backward = f"{name}.grad"
            gradients = [tf.stack([of_mean, of_variance])]
            gradients = gradients if weight is None else batch_weight.or_zeros(gradients, weight)
            with order[1].next() as made:
                made.extend(engine.allreduce(gradients, ReduceOp.SUM, [f"{backward}{call_index(backward)}"]))
            summed = tf.raw_ops.PreventGradient(
                input=made[0], message="SyncBatchNormalization has no second derivatives on several ranks."
            )
            of_mean, of_second = tf.unstack(tf.math.divide_no_nan(summed, total))
            return of_mean + 2 * (centre - base - shift) * of_second, of_second

        return (base + shift, variance), gradient

    return merged_moments
