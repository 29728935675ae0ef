"""The gradient noise scale: how large a batch still pays."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hvdkit.comm import exchange, world
from hvdkit.data.current import current_data
from hvdkit.errors import UsageError
from hvdkit.grads.gradient_norms import GradientNorms
from hvdkit.keras_internals.layers import flatten_layers
from hvdkit.keras_internals.model_contents import optimizers_of, reduction_state_of
from hvdkit.keras_internals.optimizers import steps_taken, unwrap
from hvdkit.layers.sync_batch_norm import SyncBatchNormalization
from hvdkit.utils.log import get_logger
from hvdkit.utils.numbers import real, whole


class GradientNoiseScale(keras.callbacks.Callback):
    """Estimate and log the gradient noise scale, which tells up to which batch size more ranks help.

    The noise scale is the trace of the covariance of one sample's gradient, over the squared length of the true
    gradient. If the batch is much smaller, doubling it saves nearly half of the steps; if it is much larger,
    doubling it saves hardly any. The noise scale grows as the loss falls. It is estimated from each rank's gradient and
    the reduced gradient, so it needs no second backward pass. The cost is two passes over the gradients in the measured
    steps, and one exchange of three numbers each time it is logged.

    At the end of each epoch ``logs["noise_scale"]`` contains it, in samples and with the same value on every rank. It
    is NaN as long as the gradient cannot be distinguished from its noise. Partial batches and steps that loss scaling
    skips are ignored. In a single process there is nothing to compare, and this is logged.

    Args:
        every: measure one of this many updates.
        batch_size: samples per step on each rank; None takes it from ``hvd.data.shard``.
        smoothing: the weight of earlier epochs in the exponential mean of both estimates, from 0 to below 1.

    Raises:
        UsageError: at the start of training, if the batch size is not known, if the gradients are not averaged over
            ranks (a plain optimizer, ``op=hvd.Adasum``, replicas of a strategy, local SGD), or if a rank's gradient
            does not depend on its own samples alone (``SyncBatchNormalization``).

    Paper: S. McCandlish, J. Kaplan, D. Amodei et al., "An Empirical Model of Large-Batch Training", arXiv:1812.06162,
    2018, appendix A.1.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> callbacks = [*hvd.callbacks.defaults(), hvd.callbacks.GradientNoiseScale(every=10)]
    """

    def __init__(self, every: int = 10, batch_size: int | None = None, smoothing: float = 0.5):
        super().__init__()
        every, smoothing = whole(every, "every", 1), real(smoothing, "smoothing")
        batch_size = None if batch_size is None else whole(batch_size, "batch_size", 1)
        if not 0 <= smoothing < 1:
            raise UsageError(f"`smoothing` must be from 0 to below 1. Received: smoothing={smoothing!r}.")
        self.every, self.batch_size, self.smoothing = every, batch_size, smoothing
        self.noise_scale = float("nan")
        self._norms: GradientNorms | None = None
        self._means = np.zeros(3)  # of the noise, of the squared gradient, and by how much both are too small

    def on_train_begin(self, logs=None):
        if world.size() == 1:
            get_logger().info("The gradient noise scale needs at least two ranks, because it compares their gradients.")
            return
        state = self._reduction_state()
        self._sizes = self._batch_sizes()
        self._means = np.zeros(3)
        if state.pipeline.norms is None:
            self._norms = state.pipeline.norms = GradientNorms()
            outer = self.model.optimizer
            if isinstance(outer, keras.optimizers.LossScaleOptimizer) and not state.reduces:
                self._norms.loss_scale = lambda: outer.dynamic_scale  # still scaled when it is reduced
            self.model.make_train_function(force=True)
        self._norms = state.pipeline.norms

    def _reduction_state(self) -> Any:
        states = [reduction_state_of(optimizer) for optimizer in optimizers_of(self.model)]
        why_not = None
        if len(states) != 1 or states[0] is None:
            why_not = "the model has exactly one optimizer, a hvd.DistributedOptimizer"
        elif states[0].pipeline.options.op.value not in ("average", "sum"):
            why_not = "gradients are averaged or summed"
        elif any(isinstance(layer, SyncBatchNormalization) for layer in flatten_layers(self.model)):
            why_not = "a rank's gradient depends on its own samples alone, which SyncBatchNormalization prevents"
        elif not states[0].is_synchronous:
            why_not = "gradients are reduced in every step, which local SGD does not do"
        elif self.model.distribute_strategy.num_replicas_in_sync > 1:
            why_not = "each process has one device, without a strategy's replicas"
        elif states[0].pipeline.process_set is not None:
            why_not = "all ranks reduce their gradients together, without a process set"
        if why_not:
            raise UsageError(
                f"The gradient noise scale can only be estimated if {why_not}.", fix="remove the callback."
            )
        return states[0]

    def _batch_sizes(self) -> np.ndarray:
        """Samples per reduction on each rank."""
        data = current_data(self.model)
        own = self.batch_size
        if own is None and hasattr(data, "sizes"):
            own = data.sizes[world.rank()]
        if own is None:
            raise UsageError(
                "The gradient noise scale needs the number of samples per step.",
                fix="pass hvd.callbacks.GradientNoiseScale(batch_size=...), the samples per step on each rank.",
            )
        inner = unwrap(self.model.optimizer)
        self._passes = inner.gradient_accumulation_steps or 1
        self._step = steps_taken(inner)
        per_rank = np.asarray(
            exchange.allgather_object(int(own), f"{type(self).__name__}: the sizes of batches"), dtype=np.float64
        )
        self._data_batch = per_rank.sum()
        return per_rank * self._passes

    def on_train_batch_begin(self, batch, logs=None):
        if self._norms is None:
            return
        at_once = int(self.model.steps_per_execution)
        # All small steps of an update, because the optimizer decides which of them reduces.
        wanted = self._step // max(self._passes, at_once) % self.every == 0
        if at_once == 1 and batch + 1 == self.params.get("steps") and self._ends_short():
            wanted = False
        self._step += at_once
        if wanted != self._is_active:
            self._norms.active.assign(wanted)
            self._is_active = wanted

    def _ends_short(self) -> bool:
        """Whether the last step of an epoch has fewer samples than the others."""
        plan = getattr(current_data(self.model), "plan", None)
        return plan is not None and plan.counts[-1].sum() < self._data_batch

    _is_active = False
    _looked_at = 0

    def on_epoch_end(self, epoch, logs=None):
        if self._norms is None:
            return
        self._update()
        if logs is not None:
            logs["noise_scale"] = self.noise_scale
        if world.rank() == 0:
            get_logger().info("%s", self._summary())

    def on_train_end(self, logs=None):
        if self._norms is not None:
            self._norms.active.assign(False)
            self._is_active = False

    def _update(self) -> None:
        """Both estimates from the sums since the last time; collective."""
        own, reduced, steps = self._norms.sums.numpy()
        self._norms.sums.assign(np.zeros(3))
        total = self._sizes.sum()
        # A rank with more samples than the mean brings a gradient that was multiplied by as much.
        own /= (self._sizes[world.rank()] * len(self._sizes) / total) ** 2
        per_rank = np.asarray(
            exchange.allgather_object([float(own), float(steps)], f"{type(self).__name__}: the norms of gradients")
        )
        self._looked_at = int(steps)
        if steps == 0:
            return
        if self._reduction_state().pipeline.options.op.value == "sum":
            reduced /= len(self._sizes) ** 2
        small, large = per_rank[:, 0].mean() / per_rank[:, 1].mean(), reduced / steps
        one_rank, all_ranks = np.mean(1 / self._sizes), 1 / total  # what the variance of each gradient is divided by
        noise = (small - large) / (one_rank - all_ranks)
        signal = (large * one_rank - small * all_ranks) / (one_rank - all_ranks)
        self._means = self.smoothing * self._means + (1 - self.smoothing) * np.asarray([noise, signal, 1.0])
        noise, signal, _ = self._means
        self.noise_scale = float(noise / signal) if signal > 0 and noise >= 0 else float("nan")

    def _summary(self) -> str:
        if not self._looked_at:
            return "Gradient noise scale: of this epoch's updates none was looked at; lower `every`."
        now = f"{self._sizes.sum():,.0f}"
        if np.isnan(self.noise_scale):
            return f"Gradient noise scale: the gradient of a batch of {now} cannot be told from its noise yet."
        scale = _rounded(self.noise_scale)
        still = self.noise_scale > self._sizes.sum()
        verdict = f"A batch up to about {scale} still pays." if still else "More ranks or larger batches hardly pay."
        return f"Gradient noise scale about {scale} samples; the batch is {now}. {verdict}"


def _rounded(value: float) -> str:
    """Two digits of it count.

    >>> _rounded(12345.6), _rounded(0.31)
    ('12,000', '0.31')
    """
    return f"{float(f'{value:.2g}'):,.10g}"
