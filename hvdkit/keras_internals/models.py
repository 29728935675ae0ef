"""What a Keras model has for ``fit`` and ``evaluate``, by plain names."""

from __future__ import annotations

from typing import Any

import keras


def samples_in_loss(model: Any) -> float | None:
    """The weight of all samples whose loss was counted since the metrics were reset; None without a loss."""
    tracker = getattr(model, "_loss_tracker", None)
    return None if tracker is None else float(tracker.count.numpy())


def set_initial_epoch(model: Any, epoch: int | None) -> None:
    """Let the running ``fit`` begin with another epoch than it was told; None ends that."""
    model._initial_epoch = epoch


def flatten_metrics(model: Any, results: dict[str, Any]) -> Any:
    """Results by name as ``evaluate`` returns them without ``return_dict``."""
    return model._flatten_metrics_in_order(results)


def strategy_given(model: Any) -> Any:
    """The ``tf.distribute`` strategy under which a model was made; None without one."""
    return model._distribute_strategy


def build_symbolically(model: Any, spec: Any) -> None:
    """Build a model and its metrics from the specification of a batch, without data."""
    model._symbolic_build(data_batch=spec)


#: What a callback is given by ``fit``, as attributes of it.
GIVEN_TO_CALLBACKS = ("model", "_model", "params")
#: The attribute of ``SwapEMAWeights`` that says that averages are in the place of the weights.
AVERAGES_ARE_IN_PLACE = "_ema_weights_in_model"


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """``keras.callbacks.ModelCheckpoint`` with what is done at a save under plain names."""

    def save_now(self, epoch: int, batch: int | None, logs: Any) -> None:
        """Save if it is time to; to be overridden."""
        super()._save_model(epoch, batch, logs)

    def path_at(self, epoch: int, batch: int | None, logs: Any) -> str:
        """The path of a save, with the epoch and the metrics in it."""
        return self._get_file_path(epoch, batch, logs)

    def is_wanted(self, epoch: int, batch: int | None, logs: Any, path: str) -> bool:
        """Whether a save is wanted: with ``save_best_only`` that the metric is better than before, which is noted."""
        return self._should_save_model(epoch, batch, logs, path)

    def _save_model(self, epoch, batch, logs):
        self.save_now(epoch, batch, logs)
