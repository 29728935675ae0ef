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
    """The callbacks every run on several ranks wants, in the order they belong.

    The weights of rank 0 for everybody, metrics averaged over the ranks, the consistency check, and progress from
    rank 0 only: a bar on a terminal, one line per epoch elsewhere.

    Example:

    >>> import hvdkit as hvd
    >>> [type(callback).__name__ for callback in hvd.callbacks.defaults()]
    ['BroadcastGlobalVariablesCallback', 'MetricAverageCallback', 'ConsistencyCheck', 'RankZeroProgress']
    """
    return [import_object(target)() for target in _DEFAULTS.values()]
