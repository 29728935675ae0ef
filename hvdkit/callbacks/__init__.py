"""Keras callbacks for several ranks, under Horovod's names where it has them: loaded on first use."""

from __future__ import annotations

from hvdkit.utils.registry import import_object, lazy

# What defaults() makes, in this order.
_DEFAULTS = {
    "BroadcastGlobalVariablesCallback": "hvdkit.callbacks.broadcast:BroadcastGlobalVariablesCallback",
    "MetricAverageCallback": "hvdkit.callbacks.metric_average:MetricAverageCallback",
    "ConsistencyCheck": "hvdkit.callbacks.consistency_check:ConsistencyCheck",
    "RankZeroProgress": "hvdkit.callbacks.progress:RankZeroProgress",
}
_HOME = {
    **_DEFAULTS,
    "LearningRateScheduleCallback": "hvdkit.callbacks.learning_rate:LearningRateScheduleCallback",
    "LearningRateWarmupCallback": "hvdkit.callbacks.learning_rate:LearningRateWarmupCallback",
    "CheckpointCallback": "hvdkit.callbacks.checkpoint:CheckpointCallback",
    "GradientNoiseScale": "hvdkit.callbacks.noise_scale:GradientNoiseScale",
    "BestModelCheckpoint": "hvdkit.callbacks.best_model_checkpoint:BestModelCheckpoint",
}

__all__ = [*_HOME, "defaults"]

__getattr__, __dir__ = lazy(globals(), _HOME, {"CommunicationProof": "ConsistencyCheck"})


def defaults() -> list:
    """Return the callbacks that every run on several ranks needs, in the right order.

    They broadcast the weights of rank 0, average metrics over the ranks, check that the ranks communicate, and print
    progress on rank 0 only: a bar on a terminal, and otherwise one line per epoch.

    Example:

    >>> import hvdkit as hvd
    >>> [type(callback).__name__ for callback in hvd.callbacks.defaults()]
    ['BroadcastGlobalVariablesCallback', 'MetricAverageCallback', 'ConsistencyCheck', 'RankZeroProgress']
    """
    return [import_object(target)() for target in _DEFAULTS.values()]
