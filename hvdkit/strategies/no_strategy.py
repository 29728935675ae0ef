"""One device per process, and no strategy."""

from __future__ import annotations

from typing import Any


def none() -> Any:
    """No replicas: each process has one device. It is what runs without any strategy.

    Example:

    >>> none().num_replicas_in_sync
    1
    """
    import tensorflow as tf

    return tf.distribute.get_strategy()
