"""Metrics over all ranks instead of rank 0's own."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from hvdkit.comm import exchange, world
from hvdkit.errors import CommunicationError
from hvdkit.grads import batch_weight
from hvdkit.keras_internals.models import samples_in_loss
from hvdkit.metrics import aggregation
from hvdkit.utils.rank_text import ranks_text


class MetricAverageCallback(keras.callbacks.Callback):
    """Replace the epoch's metrics by the metrics over all ranks' samples.

    It makes one exchange per epoch for all metrics, and every rank gets bitwise the same numbers. Put it before
    callbacks that read metrics (``ReduceLROnPlateau``, ``ModelCheckpoint``, ``EarlyStopping``). It is exact for all of
    Keras' metrics, including AUC and F1, because it sums the counts of the metrics. A custom metric class is summed too
    if it declares ``sum_over_ranks = True``, which means that its variables are sums over samples. If a model has a
    custom metric that does not, all metrics become means over the ranks, weighted by the number of samples of each
    rank. All other numbers in ``logs`` become such means in any case.

    Args:
        device: the TensorFlow device of the exchange, "" for any. The few numbers of an epoch are sent through the
            host's memory in any case.

    Raises:
        CommunicationError: on every rank, if one rank has a metric that another rank lacks.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> callbacks = [hvd.callbacks.MetricAverageCallback()]
    """

    def __init__(self, device: str = ""):
        super().__init__()
        self.device = device
        self._batches = {"train": 0, "val": 0}
        self._samples = {"train": None, "val": None}
        self._states: dict = {}

    def on_train_begin(self, logs=None):
        if world.size() > 1:
            batch_weight.begin_training()

    def leader(self, callbacks: list) -> keras.callbacks.Callback:
        """Looks at the metrics of an epoch before a callback that evaluates resets them, wherever this one stands."""
        return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs=None: self._snapshot_once("train"))

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = {"train": 0, "val": 0}
        self._samples = {"train": None, "val": None}
        self._states = {}

    def on_train_batch_begin(self, batch, logs=None):
        self._batches["train"] += 1

    def on_test_batch_begin(self, batch, logs=None):
        self._batches["val"] += 1

    def on_test_begin(self, logs=None):
        self._snapshot_once("train")  # evaluation is about to reset the metrics

    def on_test_end(self, logs=None):
        self._snapshot_once("val")

    def _snapshot_once(self, phase: str) -> None:
        if world.size() > 1 and self._samples[phase] is None:
            self._samples[phase] = self._count(phase)
            self._states[phase] = aggregation.metric_states(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if not logs or world.size() == 1:
            return
        self._snapshot_once("train")
        sums = {
            phase: aggregation.summable_names(self.model, state, logs, "val_" if phase == "val" else "")
            for phase, state in self._states.items()
        }
        own_logs = {
            "metrics": {name: float(value) for name, value in logs.items() if np.ndim(value) == 0},
            "train": self._samples["train"],
            "last": batch_weight.of_last_step(),
            "val": self._samples["val"] or 0.0,
            "sums": sums,
            "counted": {phase: {"counted": self._states[phase]["counted"]} for phase in sums if sums[phase]},
        }
        with tf.device(self.device):
            per_rank = exchange.allgather_object(own_logs, f"{type(self).__name__}: the metrics of an epoch")
        _check_keys([set(rank["metrics"]) for rank in per_rank])
        for name in own_logs["metrics"]:
            # A number that no metric computes is that of the last step.
            kind = "train" if name in self._states["train"]["results"] else "last"
            weights = [rank["val" if name.startswith("val_") else kind] for rank in per_rank]
            values = [rank["metrics"][name] for rank in per_rank]
            logs[name] = aggregation.weighted_mean(weights, values)
        for phase, names in sums.items():
            if names and all(rank["sums"].get(phase) == names for rank in per_rank):
                merged = aggregation.merge_states(self.model, [rank["counted"][phase] for rank in per_rank])
                prefix = "val_" if phase == "val" else ""
                logs.update({name: merged[name.removeprefix(prefix)] for name in names})

    def _count(self, phase: str) -> float:
        """Samples since the metrics were reset: what Keras weighted its loss by; batches where it did not."""
        return samples_in_loss(self.model) or float(self._batches[phase])


def _check_keys(keys: list[set[str]]) -> None:
    everything = set().union(*keys)
    missing = {name: [r for r, names in enumerate(keys) if name not in names] for name in sorted(everything)}
    missing = {name: ranks for name, ranks in missing.items() if ranks}
    if missing:
        what = "; ".join(f"{name!r} is missing on {ranks_text(ranks)}" for name, ranks in missing.items())
        raise CommunicationError(
            f"The ranks have different metrics: {what}.",
            fix="compile the same metrics and pass validation data on every rank; a callback that adds a metric to "
            "`logs` on one rank only belongs after MetricAverageCallback.",
            rank=world.rank(),
        )
