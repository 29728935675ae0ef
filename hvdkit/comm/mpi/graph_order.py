"""The collectives of a graph, one after the other in the order in which they were made.

TensorFlow's automatic control dependencies do less than that. They chain stateful operations that use no variable, and
those that use the same one: a function or a branch with a collective and a variable in it is chained to no other
collective. And the backward function that a tape outside of every ``tf.function`` asks for has none at all. What is
not chained TensorFlow starts in any order, another one on each rank. Made in the same order it is on every rank.

Patched because TensorFlow has no hook between making a graph and making a function of it; an operation can wait for
what was made before it, but a nested function or a loop that is made last would wait for nothing.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any

from hvdkit.keras_internals import graphs

# Functions that make collectives, by name. A function is made before what calls it.
_makers: set[str] = set()


def install_ordering(collective: str) -> None:
    """Order the graphs of functions from here on; ``remove`` ends it.

    Args:
        collective: what the operations that are collectives are called.
    """

    def order_function(name: str, graph: Any) -> None:
        if order(graph, collective):
            _makers.add(name)

    graphs.before_function_is_made(order_function)


def remove() -> None:
    """Leave graphs alone from here on."""
    graphs.restore_function_making()
    _makers.clear()


def order(graph: Any, collective: str) -> bool:
    """Make each operation that is a collective, or calls a function that makes one, wait for the one made before it.

    Returns:
        Whether there is one.
    """
    operations = graph.get_operations()
    moving = [operation for operation in operations if _moves(operation, collective)]
    if len(moving) > 1:
        for before, after in itertools.pairwise(_sorted(moving, operations)):
            if before not in after.control_inputs:
                graphs.wait_for(after, before)
    return bool(moving)


def _moves(operation: Any, collective: str) -> bool:
    if operation.name.rsplit("/", 1)[-1].startswith(collective):
        return True
    if not _makers:
        return False
    for attribute, many in graphs.function_attributes(operation.type):
        called = operation.get_attr(attribute)
        if any(function.name in _makers for function in (called if many else [called])):
            return True
    return False


def _sorted(moving: list, operations: list) -> list:
    """In the order they were made, but for one that needs what was made later: TensorFlow changes inputs at times."""
    place = {operation: number for number, operation in enumerate(operations)}
    needs = [
        {place[other] for other in (*(tensor.op for tensor in operation.inputs), *operation.control_inputs)}
        for operation in operations
    ]
    if all(max(needed, default=-1) < number for number, needed in enumerate(needs)):
        return moving
    wanted_by: list[list[int]] = [[] for _ in operations]
    for number, needed in enumerate(needs):
        for other in needed:
            wanted_by[other].append(number)
    left = [len(needed) for needed in needs]
    ready = [number for number, count in enumerate(left) if not count]
    heapq.heapify(ready)
    wanted, ordered = {place[operation] for operation in moving}, []
    while ready:
        number = heapq.heappop(ready)
        if number in wanted:
            ordered.append(operations[number])
        for other in wanted_by[number]:
            left[other] -= 1
            if not left[other]:
                heapq.heappush(ready, other)
    return ordered
