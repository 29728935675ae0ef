"""One seed for the run: the same for the model on every rank, and a different one for the data on each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hvdkit.comm import world
from hvdkit.keras_internals.attributes import separate_once
from hvdkit.utils.numbers import whole


@dataclass(frozen=True)
class Seeds:
    """``model`` is the same on every rank; ``data`` differs between the ranks."""

    model: int
    data: int


def derive_seeds(seed: int, rank: int) -> Seeds:
    """The seeds of a rank, as a pure function.

    >>> derive_seeds(7, 0).model == derive_seeds(7, 1).model, derive_seeds(7, 0).data == derive_seeds(7, 1).data
    (True, False)
    """
    return Seeds(model=seed, data=int(np.random.SeedSequence([seed, rank]).generate_state(1)[0]))


def separate(generators: list, rank: int) -> None:
    """Let seed generators of Keras, which are alike on every rank, draw other numbers on each; each is moved once.

    Else the ranks would drop the same units, and make the same noise, for their different samples.

    >>> import keras
    >>> first, second = keras.random.SeedGenerator(3), keras.random.SeedGenerator(3)
    >>> separate([first], 0), separate([second], 1), separate([second], 1)
    (None, None, None)
    >>> int(first.state.numpy()[0]), int(second.state.numpy()[0])
    (3, 2654435772)
    """
    for generator in generators:
        if separate_once(generator, rank):
            seed, count = generator.state.numpy()
            generator.state.assign([np.uint32((int(seed) + rank * _GOLDEN) % 2**32), count])


_GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: multiples of it are far apart


def set_seed(seed: int) -> Seeds:
    """Seed Python, NumPy and Keras alike on every rank, so that all build the same model.

    Args:
        seed: an integer from 0 to 2**32 - 1; the same on every rank.

    Returns:
        The seeds; use ``.data`` to shuffle or augment this rank's data.

    Raises:
        UsageError: the seed is out of range. It is also a ``ValueError``.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> seeds = hvd.set_seed(7)
    >>> rng = np.random.default_rng(seeds.data)
    """
    seed = whole(seed, "seed", 0, 2**32 - 1)
    import keras

    keras.utils.set_random_seed(seed)
    return derive_seeds(seed, world.rank())
