"""Variables from one rank to all: few large messages instead of one per variable."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from hvdkit.comm import ops, process_sets, world
from hvdkit.comm.process_sets import ProcessSet, engine_of
from hvdkit.errors import UsageError

MESSAGE_BYTES = 64 * 2**20


def broadcast_variables(variables: list, root_rank: int = 0, process_set: ProcessSet | None = None) -> None:
    """Give every rank the values of ``root_rank``; also works in a ``tf.function``, with one message per variable.

    Args:
        variables: Keras or TensorFlow variables of any dtype except strings; every rank has the same number, shapes and
            dtypes.
        root_rank: the rank whose values are sent.
        process_set: the ranks that take part, including the root; None means all.

    Raises:
        UsageError: there is no such rank.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.broadcast_variables([])
    """
    root_rank = process_sets.check_root(root_rank, process_set)
    if engine_of(process_set).size == 1:
        return
    if _in_graph():
        for variable in variables:
            variable.assign(ops.broadcast(variable, root_rank, process_set=process_set))
        return
    for group in _groups(variables):
        values = [np.ascontiguousarray(v.numpy()) for v in group]
        # As bytes: no transport knows bfloat16, and this way every dtype travels alike.
        sent = np.concatenate([value.reshape(-1).view(np.uint8) for value in values])
        received = ops.broadcast(sent, root_rank, process_set=process_set)
        if world.rank() == root_rank:
            continue
        at = 0
        for variable, value in zip(group, values, strict=True):
            variable.assign(received[at : at + value.nbytes].view(value.dtype).reshape(variable.shape))
            at += value.nbytes


def _in_graph() -> bool:
    tf = sys.modules.get("tensorflow")
    return tf is not None and not tf.executing_eagerly()


def broadcast_global_variables(root_rank: int = 0, variables: Any = None) -> None:
    """Horovod's name for ``broadcast_variables``; pass the model, as TensorFlow 2 has no list of all variables.

    Args:
        root_rank: the rank whose values are sent.
        variables: a Keras model (its weights and its optimizer's variables), an optimizer, or variables.

    Raises:
        UsageError: ``variables`` is missing, or there is no such rank.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.broadcast_global_variables(0, [])
    """
    if variables is None:
        raise UsageError(
            "broadcast_global_variables needs the model: TensorFlow 2 has no list of all variables.",
            fix="hvd.broadcast_global_variables(0, model), or BroadcastGlobalVariablesCallback(0) in fit.",
        )
    if hasattr(variables, "optimizer"):  # a model
        from hvdkit.keras_internals.model_contents import optimizer_state_of, weights_of

        variables = [*weights_of(variables), *optimizer_state_of(variables)]
    elif hasattr(variables, "variables"):
        variables = variables.variables
    broadcast_variables(list({id(v): v for v in variables}.values()), root_rank)


def _groups(variables: list) -> Iterator[list]:
    """The variables in groups of some 64 MiB, one message each."""
    group: list[Any] = []
    size = 0
    for variable in variables:
        group.append(variable)
        size += int(np.prod(variable.shape)) * np.dtype(_dtype(variable)).itemsize
        if size >= MESSAGE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _dtype(variable: Any) -> str:
    name = variable.dtype if isinstance(variable.dtype, str) else variable.dtype.name
    return "uint16" if name == "bfloat16" else name
