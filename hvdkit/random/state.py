"""Where the random numbers of a process stand: Keras' global seeds, NumPy's and Python's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from hvdkit.keras_internals.random import existing_seed_generator, global_seed_generator


class RandomState:
    """The states of Python's, NumPy's and Keras' global generators; ``Stateful``, each rank's own.

    Example:

    >>> state = RandomState()
    >>> before = state.state_dict()
    >>> first = random.random(), np.random.rand()
    >>> state.load_state_dict(before)
    >>> (random.random(), np.random.rand()) == first
    True
    """

    def state_dict(self) -> dict[str, np.ndarray]:
        """The states, as arrays of whole numbers."""
        version, words, gauss = random.getstate()
        _, keys, position, has_gauss, cached = np.random.get_state()
        state = {
            "python": np.asarray([version, *words], np.uint64),
            "python_gauss": np.asarray([] if gauss is None else [gauss], np.float64),
            "numpy": np.asarray(keys, np.uint32),
            "numpy_position": np.asarray([position, has_gauss], np.int64),
            "numpy_gauss": np.asarray(cached, np.float64),
        }
        generator = existing_seed_generator()
        if generator is not None:
            state["keras"] = np.array(generator.state.numpy())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the generators from a ``state_dict``."""
        python, numpy = _states(state)
        if "keras" in state:  # first: a generator that does not exist yet is made with a random number of Python's
            global_seed_generator().state.assign(state["keras"])
        random.setstate(python)
        np.random.set_state(numpy)

    def check(self, state: dict[str, Any]) -> None:
        """Refuse arrays that are no states.

        Raises:
            ValueError, TypeError, LookupError, OverflowError: one of them is none, or is missing.

        Example:

        >>> RandomState().check(RandomState().state_dict())
        """
        python, numpy = _states(state)
        random.Random().setstate(python)  # noqa: S311
        np.random.RandomState().set_state(numpy)
        if "keras" in state and (state["keras"].shape != (2,) or state["keras"].dtype.kind not in "iu"):
            raise ValueError(f"a state of Keras' generator with the shape {state['keras'].shape}")


def _states(state: dict[str, Any]) -> tuple[tuple, tuple]:
    """Those of Python's generator and of NumPy's, as these take them."""
    version, *words = (int(n) for n in state["python"])
    gauss = state["python_gauss"]
    position, has_gauss = (int(n) for n in state["numpy_position"])
    python = version, tuple(words), float(gauss[0]) if len(gauss) else None
    return python, ("MT19937", state["numpy"], position, has_gauss, float(state["numpy_gauss"]))
