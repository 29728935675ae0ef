"""Every rank starts from the weights of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from hvdkit.comm import exchange, process_sets, world
from hvdkit.comm.consistency import assert_same_on_all_ranks
from hvdkit.comm.variables import broadcast_variables
from hvdkit.errors import UsageError
from hvdkit.grads.identity import name_of
from hvdkit.keras_internals.model_contents import (
    backend_variable,
    build_optimizer,
    mark_local,
    optimizer_state_of,
    optimizers_of,
    refresh_normalization,
    slots_of,
    weights_of,
)
from hvdkit.optim.reduction_state import reduction_states
from hvdkit.utils.numbers import whole


class BroadcastGlobalVariablesCallback(keras.callbacks.Callback):
    """Give every rank the weights and optimizer slots of ``root_rank`` before the first step.

    It broadcasts the model's weights, including the statistics of an adapted ``Normalization`` layer and each
    ``tf.Variable`` that the model or a layer holds. It also broadcasts ``iterations``, learning rate, slots and loss
    scale of all optimizers that the model holds. Seeds of dropout layers stay different on each rank. Variables that
    are created in the first step are broadcast after it. If the model was already trained with local SGD
    (``hvd.optim.LocalSGD``), slots, and weights in the middle of a round, are not broadcast.

    Args:
        root_rank: the rank that has the weights, for example because only this rank loaded a checkpoint.
        device: the TensorFlow device of the exchange, "" for any. The data are sent through the host's memory in any
            case.
        local_variables: a Keras or TensorFlow variable, or a collection of them, that is not broadcast, with its
            optimizer slots. They are matched by identity, not by name, and the consistency check ignores them too.
            Their gradients are reduced like all others, unless the optimizer excludes them.

    Raises:
        UsageError: there is no such rank, or a local variable is not a variable.
        CommunicationError: the ranks have different models or optimizers.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    """

    def __init__(self, root_rank: int = 0, device: str = "", local_variables: Any = None):
        super().__init__()
        self.root_rank = whole(root_rank, "root_rank")
        self.device = device
        self._local: list = []
        self._sent: set[int] = set()
        self._steps = 0
        if local_variables is None:
            return
        if _is_variable(local_variables):
            local_variables = [local_variables]
        if isinstance(local_variables, str) or not isinstance(local_variables, Iterable):
            raise _no_variable(local_variables)
        for variable in local_variables:
            self.register_local_var(variable)

    def register_local_var(self, var: Any) -> None:
        """Exclude a Keras or TensorFlow variable from the broadcast; call it before training begins.

        Raises:
            UsageError: it is not a variable.

        Example:

        >>> broadcast = BroadcastGlobalVariablesCallback(0)
        >>> broadcast.register_local_var(keras.Variable([0.0]))
        """
        if not _is_variable(var):
            raise _no_variable(var)
        mark_local(var)
        self._local.append(var)

    def on_train_begin(self, logs=None):
        process_sets.check_root(self.root_rank)
        self._sent.clear()
        self._steps = 0
        build_optimizer(self.model)
        self._broadcast_new()

    # Before the second step and not after the first: Keras may call the hooks *after* a step from another thread.
    def on_train_batch_begin(self, batch, logs=None):
        self._steps += 1
        if self._steps == 2:
            self._broadcast_new()

    def on_epoch_end(self, epoch, logs=None):
        if self._steps == 1:
            self._broadcast_new()

    def _broadcast_new(self) -> None:
        if world.size() == 1:
            return
        local = {
            id(backend_variable(v))
            for v in [*self._local, *slots_of(self.model, self._local), *self._per_rank_variables()]
        }
        new = lambda v: id(v) not in self._sent and id(backend_variable(v)) not in local
        weights = [v for v in weights_of(self.model) if new(v)]
        slots = [v for v in optimizer_state_of(self.model) if new(v)]
        # Slots without their names: these contain the layer's, with a counter that differs if one rank has built or
        # loaded one more model.
        own_variables = {
            "weights": [f"{name_of(v)} {keras.backend.standardize_dtype(v.dtype)} {list(v.shape)}" for v in weights],
            "optimizer": [f"{v.dtype} {list(v.shape)}" for v in slots],
        }
        with tf.device(self.device):
            assert_same_on_all_ranks(
                "the variables of their models",
                own_variables,
                by=type(self).__name__,
                fix="build the same model and optimizer on every rank.",
            )
            broadcast_variables([*weights, *slots], self.root_rank)
        refresh_normalization(self.model)
        self._sent |= {id(v) for v in [*weights, *slots]}

    def _per_rank_variables(self) -> list:
        """The variables that differ between ranks of local SGD: slots, and between two averages the weights."""
        states = [state for state in reduction_states(self.model) if not state.is_synchronous]
        if not states:
            return []
        steps = [int(o.iterations.numpy()) for o in optimizers_of(self.model)]
        steps_since_sync = [state.steps_since_sync() for state in states]
        per_rank = exchange.allgather_object(
            [steps, steps_since_sync], f"{type(self).__name__}: the steps of local SGD"
        )
        if not any(steps) or any(other != per_rank[0] for other in per_rank):  # one of them alone has been trained
            return []
        weights = [v for state in states for v in state.per_rank_variables()]
        return [*slots_of(self.model, weights), *(weights if any(steps_since_sync) else [])]


def _is_variable(value: Any) -> bool:
    return isinstance(value, keras.Variable | tf.Variable)


def _no_variable(value: Any) -> UsageError:
    return UsageError(
        f"A local variable must be a Keras or TensorFlow one. Received: {value!r} (of type {type(value).__name__}).",
        fix="pass the variables themselves, such as layer.kernel or layer.weights, not their names, values or layers.",
    )
