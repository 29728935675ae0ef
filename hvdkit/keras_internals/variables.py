"""Which TensorFlow variable is which, under a strategy too."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def unique_id(variable: Any) -> Any:
    """The same for a TensorFlow variable and, under a strategy, each replica's part of it; no other has it."""
    if not isinstance(variable, tf.distribute.DistributedValues):
        # TensorFlow notes a part's whole at the part's handle, where it has one.
        for holder in (variable, getattr(variable, "handle", None)):
            if hasattr(holder, "_distributed_container"):
                variable = holder._distributed_container()
    return getattr(variable, "_unique_id", id(variable))
