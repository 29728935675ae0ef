"""TensorFlow's graphs, the functions made of them, and the replicas of its strategies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvdkit.utils.patching import Patches

#: The kinds of operations that call Python.
PYTHON_OPERATIONS = ("PyFunc", "EagerPyFunc")

_patches = Patches()


def outermost_graph() -> Any:
    """The graph of the outermost ``tf.function`` that is traced."""
    graph = tf.compat.v1.get_default_graph()
    while getattr(graph, "outer_graph", None) is not None and getattr(graph.outer_graph, "building_function", False):
        graph = graph.outer_graph
    return graph


def wait_for(operation: Any, before: Any) -> None:
    """Let an operation of a graph begin only when another one has ended."""
    operation._add_control_input(before)


@functools.cache
def function_attributes(kind: str) -> tuple[tuple[str, bool], ...]:
    """The attributes of a kind of operation that are functions, and whether each is a list of them.

    >>> function_attributes("While")
    (('cond', False), ('body', False))
    """
    from tensorflow.python.framework import op_def_registry

    known = op_def_registry.get(kind)
    attributes = () if known is None else known.attr
    return tuple((a.name, a.type == "list(func)") for a in attributes if a.type in ("func", "list(func)"))


def before_function_is_made(look: Callable[[str, Any], None]) -> None:
    """Call ``look`` with the name and the graph of each function before TensorFlow makes it, until
    ``restore_function_making``."""
    if _patches:
        return

    def looked_at(original: Callable) -> Callable:
        def from_func_graph(name: Any, graph: Any, *args: Any, **kwargs: Any) -> Any:
            look(name.decode() if isinstance(name, bytes) else str(name), graph)
            return original(name, graph, *args, **kwargs)

        return from_func_graph

    _patches.wrap(_atomic_functions(), "from_func_graph", looked_at)


def restore_function_making() -> None:
    """Give TensorFlow its own function back."""
    _patches.restore()


def _atomic_functions() -> Any:
    from tensorflow.python.eager.polymorphic_function import atomic_function

    return atomic_function


def first_device(strategy: tf.distribute.Strategy) -> str:
    """The device of a strategy's first replica."""
    return strategy.extended.worker_devices[0]


def call_on_replicas(strategy: tf.distribute.Strategy, function: Callable, args: tuple) -> Any:
    """Call a function on each replica, from between them; replica by replica its arguments are taken apart."""
    return strategy.extended.call_for_each_replica(function, args=args)


def replicas_can_meet() -> bool:
    """Whether replicas meet by a ``merge_call``; inside XLA on GPUs they meet otherwise."""
    return not tf.__internal__.distribute.strategy_supports_no_merge_call()
