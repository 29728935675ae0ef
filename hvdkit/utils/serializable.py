"""hvdkit's own classes that a saved model may have: Keras finds such a class only once it has been imported."""

from __future__ import annotations

from hvdkit.utils.registry import import_object

_HOMES = (
    "hvdkit.layers:SyncBatchNormalization",
    "hvdkit.losses:SmoothSparseCategoricalCrossentropy",
    "hvdkit.optim:LARS",
    "hvdkit.schedules:LargeBatchSchedule",
)


def serializable_classes() -> dict[str, type]:
    """Those classes, by the names that are in a saved model.

    >>> sorted(serializable_classes())[0]
    'hvdkit>LARS'
    """
    classes = [import_object(home) for home in _HOMES]
    return {f"hvdkit>{cls.__name__}": cls for cls in classes}
