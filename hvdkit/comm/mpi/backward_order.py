"""The collectives of a backward function, one after the other in the order in which TensorFlow made them.

A ``tf.function`` runs its stateful operations in the order of the program, and so does the gradient of one that is
taken inside another. The backward function that a tape *outside* of every ``tf.function`` asks for is the exception:
TensorFlow builds it without automatic control dependencies, and starts its operations in any order, another one on
each rank. Its operations are made in the same order on every rank, as the forward functions are the same.

Patched because TensorFlow has no hook between making that graph and making a function of it; an operation can wait
for what was made before it, but a nested function or a loop that is made last would wait for nothing.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

_original: list = []


def install(collective: str) -> None:
    """Order backward functions from here on; ``remove`` ends it.

    Args:
        collective: what the operations that are collectives are called.
    """
    if _original:
        return
    concrete = _concrete_function()
    _original.append(concrete.__dict__["from_func_graph"])
    made = _original[0].__func__

    @functools.wraps(made)
    def from_func_graph(cls: Any, graph: Any, *args: Any, **kwargs: Any) -> Any:
        if not graph._add_control_dependencies:
            order(graph, collective)
        return made(cls, graph, *args, **kwargs)

    concrete.from_func_graph = classmethod(from_func_graph)


def remove() -> None:
    """Give TensorFlow its own method back."""
    if _original:
        _concrete_function().from_func_graph = _original.pop()


def order(graph: Any, collective: str) -> None:
    """Make each operation that is a collective, or calls a function that makes one, wait for the one made before it."""
    definition = graph.as_graph_def()
    makes: set[str] = set()  # functions that make collectives
    functions, known = definition.library.function, -1
    while known < len(makes):  # until no function that calls one of them is missing
        known = len(makes)
        makes |= {f.signature.name for f in functions if any(_moves(node, makes, collective) for node in f.node_def)}
    ordered = [node.name for node in definition.node if _moves(node, makes, collective)]
    for before, after in itertools.pairwise(map(graph.get_operation_by_name, ordered)):
        if not _needs(before, after):
            after._add_control_input(before)


def _moves(node: Any, makes: set[str], collective: str) -> bool:
    if node.name.rsplit("/", 1)[-1].startswith(collective):
        return True
    called = (f.name for value in node.attr.values() for f in (value.func, *value.list.func))
    return bool(makes) and any(name in makes for name in called)


def _needs(operation: Any, other: Any) -> bool:
    """Whether an operation already waits for another, directly or not: waiting the other way round would never end."""
    seen, to_see = set(), [operation]
    while to_see:
        this = to_see.pop()
        if this is other:
            return True
        inputs = {*(tensor.op for tensor in this.inputs), *this.control_inputs} - seen
        seen |= inputs
        to_see.extend(inputs)
    return False


def _concrete_function() -> Any:
    from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction

    return ConcreteFunction
