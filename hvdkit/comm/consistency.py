"""Checks that the ranks agree: on what they are about to do, and on their weights afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from hvdkit.comm import exchange, world
from hvdkit.comm.process_sets import ProcessSet, engine_of, ranks_of
from hvdkit.errors import CommunicationError, UsageError
from hvdkit.keras_internals.attributes import path_of
from hvdkit.utils.rank_text import by_rank, ranks_text


def assert_same_on_all_ranks(
    what: str, mine: Any, *, by: str, fix: str | None = None, process_set: ProcessSet | None = None
) -> None:
    """Check that every rank brings the same value; collective, one small exchange.

    Args:
        what: what the value is, as the error names it.
        mine: JSON-like data.
        by: who asks: a callback or a function that the user knows.
        fix: what to do when it differs.
        process_set: the ranks to ask; None means all.

    Raises:
        CommunicationError: on every rank, with each rank's value.
    """
    if engine_of(process_set).size == 1:
        return
    values = exchange.allgather_object(mine, f"{by}: {what}", process_set)
    if any(value != values[0] for value in values):
        differing = by_rank(_differing(values), ranks_of(process_set))
        raise CommunicationError(f"The ranks do not agree on {what}: {differing}.", fix=fix, rank=world.rank())


def raise_on_any_rank(what: str, make: Callable[[], Any], *, by: str, process_set: ProcessSet | None = None) -> Any:
    """Do something that may fail on one rank: it then fails on all, instead of leaving the others waiting; collective.

    Args:
        what: what is done, as the error says it: "open its files".
        make: does it; nothing collective in it.
        by: who asks: a callback or a function that the user knows.
        process_set: the ranks that do it; None means all.

    Returns:
        What ``make`` returns.

    Raises:
        UsageError: on every rank, with the words of the first rank that failed. The rank's own error, where it is this.
    """
    mine: Exception | None = None
    made = None
    try:
        made = make()
    except Exception as error:  # noqa: BLE001  raised again below, after the others have heard of it
        mine = error
    errors = exchange.allgather_object(None if mine is None else str(mine), f"{by}: {what}", process_set)
    if mine is not None:
        raise mine
    failed = [(r, error) for r, error in zip(ranks_of(process_set), errors, strict=True) if error is not None]
    if failed:
        raise UsageError(f"Rank {failed[0][0]} could not {what}: {failed[0][1]}", rank=world.rank())
    return made


def _differing(values: list) -> list:
    """Of dictionaries and lists, however deep, only the first element that differs, with its keys.

    >>> _differing([{"steps": 3, "epochs": 1}, {"steps": 4, "epochs": 1}])
    ['steps 3', 'steps 4']
    """
    if all(isinstance(value, dict) for value in values) and len({tuple(sorted(value)) for value in values}) == 1:
        for key in sorted(values[0]):
            elements = [value[key] for value in values]
            if any(element != elements[0] for element in elements):
                return [f"{key} {element}" for element in _differing(elements)]
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        for elements in zip(*values, strict=True):
            if any(element != elements[0] for element in elements):
                return [" ".join(map(str, e)) if isinstance(e, list) else e for e in elements]
    return values


def variable_digest(variable: Any) -> str:
    """The sha256 of one variable: its dtype, shape and bytes. Names are left out: they may differ between ranks."""
    value = np.ascontiguousarray(variable.numpy() if hasattr(variable, "numpy") else variable)
    digest = hashlib.sha256(f"{value.dtype}{value.shape}".encode())
    digest.update(value.view(np.uint8).data)
    return digest.hexdigest()


def _combine(digests: list[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def assert_equal_weights(model_or_variables: Any, *, process_set: ProcessSet | None = None, when: str = "") -> str:
    """Check that weights are bitwise equal on all ranks, and on all replicas of a rank; collective.

    Args:
        model_or_variables: a model, whose weights are compared, including frozen weights but not batch statistics; or
            a list of variables.
        process_set: the ranks to compare; None means all.
        when: the time of the check, for the error message: "after the last epoch".

    Returns:
        The sha256 of the weights, the same on every rank.

    Raises:
        CommunicationError: on every rank; it names the first variable that differs and the ranks, or the rank whose
            replicas differ.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> len(hvd.assert_equal_weights([np.zeros(3)]))
    64
    """
    variables = model_or_variables
    if hasattr(model_or_variables, "trainable_variables"):
        from hvdkit.keras_internals.model_contents import parameters_of

        variables = parameters_of(model_or_variables)
    copies = [[variable_digest(copy) for copy in _copies(variable)] for variable in variables]
    digests = [replicas[0] for replicas in copies]
    split = [_name(variables[i], i) for i, replicas in enumerate(copies) if len(set(replicas)) > 1]
    local_state = {"sha256": _combine(digests), "split": split[:1]}
    states = exchange.allgather_object(local_state, f"the comparison of weights {when}".strip(), process_set)
    for rank, state in zip(ranks_of(process_set), states, strict=True):
        if state["split"]:
            raise CommunicationError(
                f"On rank {rank}, the replicas of one process have different values of {state['split'][0]}.",
                fix="assign to a mirrored variable outside of `strategy.run`, or alike on every replica.",
                rank=world.rank(),
            )
    if any(other != states[0] for other in states):
        _raise_drift(variables, digests, process_set, when)
    return states[0]["sha256"]


def _copies(variable: Any) -> tuple:
    """A mirrored variable's value on each replica; any other variable or array is its own only one."""
    native = getattr(variable, "value", variable)  # of a Keras variable TensorFlow's, of TensorFlow's a method
    return getattr(variable if callable(native) else native, "values", (variable,))


def _name(variable: Any, number: int) -> str:
    return path_of(variable, f"number {number}")


def _raise_drift(variables: list, digests: list[str], process_set: ProcessSet | None, when: str) -> None:
    """Name the variables that differ and the ranks they differ on; every rank comes here together."""
    all_digests = exchange.allgather_object(digests, "which weights differ", process_set)
    counts = [len(rank_digests) for rank_digests in all_digests]
    if len(set(counts)) > 1:
        what = f"they have different numbers of variables ({by_rank(counts, ranks_of(process_set))})"
    else:
        differing = []
        for i, variable in enumerate(variables):
            values = [rank_digests[i] for rank_digests in all_digests]
            if len(set(values)) > 1:
                common = max(values, key=values.count)
                odd = [rank for rank, value in zip(ranks_of(process_set), values, strict=True) if value != common]
                differing.append(f"{_name(variable, i)} ({ranks_text(odd)})")
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        what = f"{len(differing)} of {len(variables)} variables differ: {', '.join(differing[:3])}{more}"
    raise CommunicationError(
        f"The weights are not equal on all ranks{when and f' {when}'}: {what}.",
        fix="start every rank from the same weights (hvd.callbacks.BroadcastGlobalVariablesCallback(0)), let only the "
        "distributed optimizer change them, and do not assign or load weights on one rank alone. Put "
        "MetricAverageCallback before callbacks that choose weights by a metric, such as EarlyStopping. A tf.Variable "
        "that each rank changes by itself must have trainable=False.",
        rank=world.rank(),
    )
