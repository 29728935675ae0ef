"""Residual blocks that begin as the identity."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.errors import UsageError
from hvdkit.keras_internals.layers import call_nodes, flatten_layers


def zero_last_gamma(model: keras.Model) -> list[str]:
    """Set gamma of the last batch norm of each residual branch to 0, so that a block starts as its shortcut.

    A residual block ends in a ``keras.layers.Add``. Among the inputs of this layer, the one with the most layers before
    it is the residual branch, and the other one is the shortcut, with or without a projection. Branches that do not end
    in a batch norm are not changed. Call it on every rank, before training.

    Args:
        model: a Functional or Sequential model, which may contain other models.

    Returns:
        The names of the changed layers.

    Raises:
        UsageError: no residual branch ends in a batch norm, as in networks with pre-activation.

    Paper: P. Goyal et al., arXiv:1706.02677, 2017, section 5.1.

    Example:

    >>> x = keras.Input((4,))
    >>> y = keras.layers.BatchNormalization(name="last")(keras.layers.Dense(4)(x))
    >>> zero_last_gamma(keras.Model(x, keras.layers.Add()([x, y])))
    ['last']
    """
    last_norms: dict[int, Any] = {}
    for part in [model, *(layer for layer in flatten_layers(model) if isinstance(layer, keras.Model))]:
        depths: dict[int, int] = {}
        for node in call_nodes(part):
            if isinstance(node.operation, keras.layers.Add):
                ends = sorted(map(_through, node.parent_nodes), key=lambda n: -_depth(n, depths))
                alone = len(ends) == 1 or _depth(ends[0], depths) > _depth(ends[1], depths)
                if ends and alone and _has_gamma(ends[0].operation):
                    last_norms[id(ends[0].operation)] = ends[0].operation
    if not last_norms:
        raise UsageError(
            f"No residual branch of {model.name} ends in a batch norm before a keras.layers.Add.",
            fix="pass gamma_initializer='zeros' to the layers you mean.",
        )
    for layer in last_norms.values():
        layer.gamma.assign(keras.ops.zeros_like(layer.gamma))
    return [layer.name for layer in last_norms.values()]


def _has_gamma(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and layer.scale


def _through(node: Any) -> Any:
    """Past layers that leave zeros zero."""
    while isinstance(node.operation, keras.layers.Dropout) and node.parent_nodes:
        node = node.parent_nodes[0]
    return node


def _depth(node: Any, known: dict[int, int]) -> int:
    """How many layers there are between a node and the inputs, on the longest way; deep models want no recursion."""
    todo = [node]
    while todo:
        at = todo[-1]
        missing = [parent for parent in at.parent_nodes if id(parent) not in known]
        if missing:
            todo += missing
            continue
        known[id(at)] = 1 + max((known[id(parent)] for parent in at.parent_nodes), default=0)
        todo.pop()
    return known[id(node)]
