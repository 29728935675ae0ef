"""What a distributed optimizer knows of the reduction of its gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import keras

from hvdkit.grads.identity import LocalVariables
from hvdkit.grads.pipeline import GradientPipeline
from hvdkit.grads.reducers.horovod_style import HorovodStyle
from hvdkit.keras_internals.model_contents import optimizers_of, reduction_state_of


@dataclass(eq=False)
class ReductionState:
    """What a distributed optimizer carries (see ``keras_internals.attributes``).

    Keras does not track it: nothing of it is in a saved model. Another way of training is a subclass, which answers the
    questions below in its own way.

    Attributes:
        pipeline: the way of the gradients over the ranks.
        reduces: whether this optimizer runs the pipeline.
        inside_loss_scale: whether it is the inner one of a ``LossScaleOptimizer``, which then weighs its gradients and
            adds up those of a strategy's replicas.
        variables: those whose gradients are being applied.
        local: the variables whose gradients stay this rank's own.
        sum_of_passes: by what an accumulated mean is multiplied to be Horovod's sum.
    """

    pipeline: GradientPipeline
    reduces: bool = True
    inside_loss_scale: bool = False
    variables: list = field(default_factory=list)
    local: LocalVariables = field(default_factory=LocalVariables)
    sum_of_passes: int = 1
    _skips_reduction: bool = False

    #: Whether the ranks reduce the gradients of every update, so that their weights are always equal.
    is_synchronous: ClassVar[bool] = True
    #: A callback that each ``fit`` on several ranks has before all others.
    fit_callback: ClassVar[type[keras.callbacks.Callback] | None] = None

    def reduce(self, gradients: list, variables: list, indices: list[int] | None) -> list:
        """Run the pipeline over the gradients that are not local."""
        if self._skips_reduction:
            return list(gradients)
        return self.pipeline(list(gradients), list(variables), indices, local=self.local)

    @contextlib.contextmanager
    def skip_reduction(self) -> Iterator[None]:
        """Inside, ``reduce`` gives back what it gets: it went through the pipeline before."""
        self._skips_reduction = True
        try:
            yield
        finally:
            self._skips_reduction = False

    def stateful(self) -> dict[str, Any]:
        """What decides how gradients are reduced, and may be ``Stateful``, by its name in a checkpoint."""
        reducer = self.pipeline.options.reducer
        return {"reducers": reducer.compressor if isinstance(reducer, HorovodStyle) else reducer}

    def expected_reductions(self, before: int, after: int) -> int:
        """How many reductions there are at least between two numbers of updates."""
        return after - before

    def steps_since_sync(self) -> int:
        """How many updates the ranks have made apart; 0 where their weights are equal."""
        return 0

    def synchronize(self) -> None:
        """Make the ranks' weights equal, if they drifted apart; collective."""

    def per_rank_variables(self) -> list:
        """The weights that ranks have each their own while ``steps_since_sync`` is not 0."""
        return []


def reduction_states(model: Any) -> list[ReductionState]:
    """Those of a model's distributed optimizers."""
    return [state for state in map(reduction_state_of, optimizers_of(model)) if state is not None]


def synchronize(model: keras.Model) -> None:
    """Average the weights of ``LocalSGD`` now; collective. For custom training loops, before a test or a save.

    ``fit`` does this at the end of each epoch.

    Args:
        model: a model with optimizers of ``hvd.optim.LocalSGD``; other optimizers are ignored.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(hvd.optim.LocalSGD(keras.optimizers.SGD(0.1)), "mse")
    >>> hvd.optim.synchronize(model)
    """
    for state in reduction_states(model):
        state.synchronize()
