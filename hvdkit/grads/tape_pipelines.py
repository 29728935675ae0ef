"""Pipelines for gradient tapes: a custom loop makes a tape in every step, and they all use one pipeline."""

from __future__ import annotations

import collections
import weakref
from typing import Any

import tensorflow as tf

from hvdkit.grads.identity import identity
from hvdkit.grads.options import ReduceOptions
from hvdkit.grads.pipeline import GradientPipeline
from hvdkit.keras_internals.graphs import outermost_graph

# Of the world that this process is in: it may leave it and enter another.
_pipelines: dict[Any, GradientPipeline] = {}
_calls: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def pipeline_for(options: ReduceOptions) -> GradientPipeline:
    """The one pipeline for these arguments. Ranks come to new arguments in the same order, so its name is the same."""
    if any(pipeline.is_over for pipeline in _pipelines.values()):
        _pipelines.clear()
    key = _key(options)
    if key not in _pipelines:
        _pipelines[key] = GradientPipeline(options, f"hvdkit.tape.{len(_pipelines)}")
    return _pipelines[key]


def reductions() -> int:
    """How often tapes have reduced gradients in this process."""
    return sum(int(pipeline.reductions.numpy()) for pipeline in _pipelines.values())


def call_index(counter: str = "tape") -> str:
    """What tells apart the collectives of one ``tf.function``, which may be under way at once: their order in it.

    Without a graph they come one after the other, and may have the same name.

    Args:
        counter: what is counted. Only what all ranks do alike may be counted together: a rank outside a process set
            does without its collectives.
    """
    if tf.executing_eagerly():
        return ""
    calls = _calls.setdefault(outermost_graph(), collections.Counter())
    calls[counter] += 1
    return f".{calls[counter] - 1}"


def _key(options: ReduceOptions) -> tuple:
    groups = options.groups
    if isinstance(groups, list):
        groups = tuple(tuple(identity(v) for v in group) for group in groups)
    reducer = _kind(options.reducer)
    set_id = 0 if options.process_set is None else options.process_set.process_set_id
    devices = (options.device_dense, options.device_sparse)
    return (
        reducer,
        options.op,
        options.sparse_as_dense,
        options.predivide,
        groups,
        set_id,
        options.scale_local,
        options.bucket_bytes,
        *devices,
    )


def _kind(reducer: Any) -> Any:
    """Two reducers made of the same arguments are one; one with a state of its own is only itself."""
    try:
        made_of = tuple(sorted(vars(reducer).items()))
        hash(made_of)
    except TypeError:
        return id(reducer)
    return type(reducer), made_of
