"""Where the random numbers of a process stand: Keras' global seeds, NumPy's and Python's."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np


def random_state() -> dict[str, np.ndarray]:
    """The states of Python's, NumPy's and Keras' global generators, as arrays of whole numbers.

    Example:

    >>> before = random_state()
    >>> first = random.random(), np.random.rand()
    >>> set_random_state(before)
    >>> (random.random(), np.random.rand()) == first
    True
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": np.asarray([version, *words], np.uint64),
        "python_gauss": np.asarray([] if gauss is None else [gauss], np.float64),
        "numpy": np.asarray(keys, np.uint32),
        "numpy_position": np.asarray([position, has_gauss], np.int64),
        "numpy_gauss": np.asarray(cached, np.float64),
    }
    generator = _keras_generator()
    if generator is not None:
        state["keras"] = np.array(generator.state.numpy())
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set them as ``random_state`` found them."""
    if "keras" in state:  # first: where there is none yet, it is made with a number of Python's
        from keras.src.random.seed_generator import global_seed_generator

        global_seed_generator().state.assign(state["keras"])
    version, *words = (int(n) for n in state["python"])
    gauss = state["python_gauss"]
    random.setstate((version, tuple(words), float(gauss[0]) if len(gauss) else None))
    position, has_gauss = (int(n) for n in state["numpy_position"])
    np.random.set_state(("MT19937", state["numpy"], position, has_gauss, float(state["numpy_gauss"])))


def _keras_generator() -> Any:
    """The one of layers without a seed of their own and of ``keras.random``; None where nothing has used it."""
    return keras.src.backend.common.global_state.get_global_attribute("global_seed_generator")
