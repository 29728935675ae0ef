"""Keras' global generator of random numbers: that of layers without a seed of their own and of ``keras.random``."""

from __future__ import annotations

from typing import Any

from keras.src.backend.common.global_state import get_global_attribute
from keras.src.random import seed_generator


def global_seed_generator() -> Any:
    """The generator; where there is none yet it is made, with a number of Python's."""
    return seed_generator.global_seed_generator()


def existing_seed_generator() -> Any:
    """The generator; None where nothing has used it."""
    return get_global_attribute("global_seed_generator")
