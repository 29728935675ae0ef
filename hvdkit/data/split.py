"""Each rank's part of arrays that every rank holds."""

from __future__ import annotations

import numpy as np

from hvdkit.comm import world
from hvdkit.errors import UsageError


def my_part(*arrays: np.ndarray, equal: bool = True) -> tuple[np.ndarray, ...]:
    """Every ``size``-th sample, from this rank's number on.

    Args:
        arrays: of the same length along axis 0, and the same on every rank.
        equal: leave out the last few samples, so that every rank has as many and makes as many steps.

    Returns:
        This rank's part of each array.

    Raises:
        UsageError: the lengths differ, or there are fewer samples than ranks.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> my_part(np.arange(4))[0]  # in a world of one
    array([0, 1, 2, 3])
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise UsageError(f"The arrays have different lengths: {sorted(lengths)}.")
    (n,) = lengths
    rank, size = world.rank(), world.size()
    if n < size:
        raise UsageError(f"{n} samples cannot be shared out over {size} ranks.", rank=rank)
    stop = n - n % size if equal else n
    return tuple(array[rank:stop:size] for array in arrays)
