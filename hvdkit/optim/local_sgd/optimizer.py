"""``hvd.strategies.local_sgd``: ranks that train by themselves for some steps, then average their weights."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.comm.process_sets import ProcessSet, global_process_set
from hvdkit.errors import UsageError
from hvdkit.keras_internals.optimizers import unwrap
from hvdkit.optim.distributed import distribute
from hvdkit.optim.local_sgd.state import Rounds
from hvdkit.utils.numbers import real, whole


def local_sgd(
    optimizer: Any,
    k: int = 8,
    *,
    start: int = 0,
    outer_lr: float = 1.0,
    outer_momentum: float = 0.0,
    nesterov: bool = True,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Make a Keras optimizer train by itself for ``k`` steps and then average the weights over the ranks.

    In the place of ``hvd.DistributedOptimizer``, with one exchange in ``k`` steps, for links that are slow. What it
    learns is not the same: the larger ``k``, the further the ranks part. With ``k=1`` and SGD, with or without
    momentum, it is synchronous training. Slots (momenta) stay each rank's own.

    On several ranks ``fit`` also ends a round with the epoch, so that validation, callbacks and saved models have the
    mean weights; in a loop of one's own ``hvd.strategies.end_round(model)`` does. A checkpoint in the middle of a round
    holds each rank's weights. With ``mixed_float16`` the ranks also exchange one number in each step, whether all
    gradients are finite; ``mixed_bfloat16`` needs none.

    Args:
        optimizer: a Keras optimizer, or its name.
        k: updates in a round.
        start: updates with reduced gradients before the first round (post-local SGD): some epochs.
        outer_lr, outer_momentum: of an outer SGD on the mean of what the ranks moved in a round; 1 and 0 take the mean
            itself. DiLoCo has an AdamW inside, 0.7 and 0.9, and ``k`` in the hundreds.
        nesterov: of the outer momentum.
        name, process_set: as for ``hvd.DistributedOptimizer``.

    Returns:
        The same optimizer.

    Raises:
        UsageError: a number out of its range; a moving average of the weights (``use_ema``); replicas of a strategy.

    Papers: S. Stich, "Local SGD Converges Fast and Communicates Little", arXiv:1805.09767, 2018; T. Lin et al., "Don't
    Use Large Mini-Batches, Use Local SGD", arXiv:1808.07217, 2018; A. Douillard et al., "DiLoCo", arXiv:2311.08105,
    2023.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> optimizer = hvd.strategies.local_sgd(keras.optimizers.SGD(0.1, momentum=0.9), k=8, start=1000)
    """
    k, start = whole(k, "k", 1), whole(start, "start", 0)
    outer_lr, outer_momentum = real(outer_lr, "outer_lr"), real(outer_momentum, "outer_momentum")
    if not outer_lr > 0 or not 0 <= outer_momentum < 1:
        raise UsageError(
            "`outer_lr` must be above 0, and `outer_momentum` from 0 to below 1. Received: "
            f"outer_lr={outer_lr!r}, outer_momentum={outer_momentum!r}."
        )
    optimizer = keras.optimizers.get(optimizer) if isinstance(optimizer, str) else optimizer
    if getattr(unwrap(optimizer), "use_ema", False):
        raise UsageError(
            "Local SGD has no moving average of the weights: between two means each rank has its own weights.",
            fix="use_ema=False.",
        )
    rounds = Rounds(k, start, outer_lr, outer_momentum, nesterov)
    return distribute(optimizer, name, rounds=rounds, process_set=process_set)
