"""``hvd.optim.LocalSGD``: ranks that train by themselves for some steps, then average their weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras
import tensorflow as tf

from hvdkit.comm.process_sets import ProcessSet, global_process_set
from hvdkit.errors import UsageError
from hvdkit.keras_internals.attributes import own_reduction_state
from hvdkit.keras_internals.optimizers import trainable_variables, unwrap
from hvdkit.optim.allreduce import AllreduceMixin
from hvdkit.optim.distributed import distribute
from hvdkit.optim.local_sgd.callback import LocalSGDCallback
from hvdkit.optim.local_sgd.state import PeriodicAveraging
from hvdkit.optim.reduction_state import ReductionState
from hvdkit.utils.numbers import real, whole


def LocalSGD(
    optimizer: Any,
    sync_period: int = 8,
    *,
    start_step: int = 0,
    outer_lr: float = 1.0,
    outer_momentum: float = 0.0,
    nesterov: bool = True,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Make a Keras optimizer train by itself for some steps and then average the weights over the ranks.

    Use it instead of ``hvd.DistributedOptimizer`` if links are slow: the ranks exchange their weights once in
    ``sync_period`` steps instead of their gradients in each step. The result differs from synchronous training, because
    the ranks drift apart, and more so for a larger period. With ``sync_period=1`` and SGD, with or without momentum, it
    equals synchronous training. Slots (momenta) are not averaged.

    On several ranks ``fit`` also averages at the end of each epoch, so that validation, callbacks and saved models use
    the mean weights. In a custom training loop, call ``hvd.optim.synchronize(model)``. A checkpoint between two
    averages contains each rank's weights. With ``mixed_float16`` the ranks also exchange one number in each step, which
    tells whether all gradients are finite. ``mixed_bfloat16`` needs no such exchange.

    Args:
        optimizer: a Keras optimizer, or its name.
        sync_period: updates between two averages (H in the papers).
        start_step: updates with reduced gradients before local SGD starts (post-local SGD), usually a few epochs.
        outer_lr, outer_momentum: the rate and momentum of an outer SGD on the mean change of the weights in a period;
            1 and 0 take the mean itself. DiLoCo uses AdamW as the inner optimizer, 0.7 and 0.9, and a period of
            hundreds of steps.
        nesterov: whether the outer momentum is Nesterov's.
        name, process_set: as for ``hvd.DistributedOptimizer``.

    Returns:
        The same optimizer.

    Raises:
        UsageError: a number is out of range, the optimizer has ``use_ema``, or there are replicas of a strategy.

    Papers: S. Stich, "Local SGD Converges Fast and Communicates Little", arXiv:1805.09767, 2018; T. Lin et al., "Don't
    Use Large Mini-Batches, Use Local SGD", arXiv:1808.07217, 2018; A. Douillard et al., "DiLoCo", arXiv:2311.08105,
    2023.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> optimizer = hvd.optim.LocalSGD(keras.optimizers.SGD(0.1, momentum=0.9), sync_period=8, start_step=1000)
    """
    sync_period, start_step = whole(sync_period, "sync_period", 1), whole(start_step, "start_step", 0)
    outer_lr, outer_momentum = real(outer_lr, "outer_lr"), real(outer_momentum, "outer_momentum")
    if not outer_lr > 0 or not 0 <= outer_momentum < 1:
        raise UsageError(
            "`outer_lr` must be above 0, and `outer_momentum` from 0 to below 1. Received: "
            f"outer_lr={outer_lr!r}, outer_momentum={outer_momentum!r}."
        )
    optimizer = keras.optimizers.get(optimizer) if isinstance(optimizer, str) else optimizer
    if getattr(unwrap(optimizer), "use_ema", False):
        raise UsageError(
            "Local SGD supports no moving average of the weights: between two averages each rank has its own weights.",
            fix="set use_ema=False.",
        )
    averaging = PeriodicAveraging(sync_period, start_step, outer_lr, outer_momentum, nesterov)
    make_state = functools.partial(LocalSGDState, averaging=averaging)
    optimizer = distribute(optimizer, name, mixin=LocalSGDMixin, state=make_state, process_set=process_set)
    inner = unwrap(optimizer)
    if inner.built:
        _build_averaging(inner, trainable_variables(inner))
    return optimizer


@dataclass(eq=False)
class LocalSGDState(ReductionState):
    """What an optimizer of ``LocalSGD`` carries.

    Attributes:
        averaging: when the weights are averaged, and what is done with their mean.
    """

    averaging: PeriodicAveraging = field(kw_only=True)

    is_synchronous: ClassVar[bool] = False
    fit_callback: ClassVar[type[keras.callbacks.Callback] | None] = LocalSGDCallback

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), "local_sgd": self.averaging}

    def expected_reductions(self, before: int, after: int) -> int:
        return self.averaging.reductions(before, after)

    def steps_since_sync(self) -> int:
        return int(self.averaging.steps_since_sync.numpy())

    def synchronize(self) -> None:
        self.averaging.synchronize(self.pipeline)

    def per_rank_variables(self) -> list:
        return self.averaging.variables


class LocalSGDMixin(AllreduceMixin):
    """Applies this rank's own gradients, and averages the weights after some updates."""

    def build(self, variables):
        if not self.built:
            _build_averaging(self, variables)
        super().build(variables)

    def reduce_gradients(self, gradients, variables):
        reduce = lambda own: super(LocalSGDMixin, self).reduce_gradients(own, variables)
        return own_reduction_state(self).averaging.reduce(reduce, gradients, self.iterations)

    def hook_update(self, gradients, variables, rate):
        state = own_reduction_state(self)
        state.averaging.before_update(self.iterations)
        super().hook_update(gradients, variables, rate)
        state.averaging.after_update(state.pipeline, self.iterations)


def _build_averaging(optimizer: Any, variables: list) -> None:
    if tf.distribute.has_strategy() and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise UsageError(
            "Local SGD does not train on the replicas of a strategy.",
            fix="start one process for each device, without a strategy.",
        )
    state = own_reduction_state(optimizer)
    state.averaging.build(variables, state.local)
