"""``horovod.tensorflow.util``, and what ``horovod.tensorflow`` has besides for checking arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvdkit.comm.engine import ReduceOp
from hvdkit.compat import for_common

__all__ = [
    "_cache",
    "_executing_eagerly",
    "_make_subgraph",
    "check_num_rank_power_of_2",
    "gpu_available",
    "handle_average_backwards_compatibility",
    "refs_to_vars",
    "split_list",
    "vars_to_refs",
]
check_num_rank_power_of_2 = for_common.num_rank_is_power_2
gpu_available, split_list = for_common.gpu_available, for_common.split_list


class _ReduceOps:
    Average, Sum = ReduceOp.AVERAGE, ReduceOp.SUM


handle_average_backwards_compatibility = for_common.get_average_backwards_compatibility_fun(_ReduceOps)


def _executing_eagerly() -> bool:
    """``tf.executing_eagerly``."""
    return tf.executing_eagerly()


def _make_subgraph(f: Callable) -> Callable:
    """``tf.function``."""
    return tf.function(f)


def _cache(f: Callable) -> Callable:
    """Call a function once for each set of arguments, inside a graph and outside."""
    cached = functools.cache(lambda _eager, *args: f(*args))
    return lambda *args: cached(tf.executing_eagerly(), *args)


def vars_to_refs(vars: Any) -> Any:
    """Variables by what may be a key: ``variable.ref()``, of lists a tuple."""
    return tuple(map(vars_to_refs, vars)) if isinstance(vars, list) else vars.ref()


def refs_to_vars(refs: Any) -> Any:
    """The variables of ``vars_to_refs``."""
    return list(map(refs_to_vars, refs)) if isinstance(refs, tuple) else refs.deref()
