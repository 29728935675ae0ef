"""Progress from rank 0 only."""

from __future__ import annotations

import sys

import keras

from hvdkit.comm import world


class RankZeroProgress(keras.callbacks.ProgbarLogger):
    """Show Keras' progress on rank 0, and nothing on the other ranks.

    It prints one line per epoch, or the usual bar in a single process on a terminal. (Under a launcher it is impossible
    to know where the output goes: mpirun gives each rank its own terminal and may write to a file.) Rank 0 follows
    ``fit(verbose=...)`` with 0, 1 or 2.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> callbacks = [hvd.callbacks.RankZeroProgress()]
    """

    async_safe = True  # as Keras treats its own: no collective here, and a step need not wait for the bar

    def __init__(self):
        super().__init__()
        self.verbose: int | None = None  # a loop that drives its callbacks by hand may never say it

    def set_params(self, params):
        super().set_params({**params, "verbose": verbosity(params.get("verbose", "auto"))})

    def on_train_begin(self, logs=None):
        if self.verbose is None:
            self.verbose = verbosity("auto")
        super().on_train_begin(logs)


def verbosity(verbose: int | str) -> int:
    """What ``verbose=`` means on this rank: silence on all but rank 0; there "auto" is a bar or one line per epoch."""
    if world.rank() != 0:
        return 0
    if verbose == "auto":
        return 1 if world.size() == 1 and sys.stdout.isatty() else 2
    return int(verbose)
