"""Which variables a step changes by what its samples hold, and which by its being a step.

A rank that has no samples left in a step takes part with a stand-in for a batch. What the stand-in changed is restored
afterwards: metrics, moving averages, the state of a recurrent layer. What counts steps, an annealing weight, an average
of the weights for a teacher, a random seed, must change as on the other ranks. Which is which is read from the graph of
the step: does what is assigned depend on the batch? Two kinds of operation cut that dependence: gradients that are made
zero without samples, and collectives, which bring what follows from the samples of all ranks.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engines import is_collective
from hvdkit.errors import UsageError
from hvdkit.grads.batch_weight import ZERO_WITHOUT_SAMPLES
from hvdkit.keras_internals import attributes
from hvdkit.keras_internals.model_contents import backend_variable, layers_of, parameters_of, weights_of

SAMPLES, STEPS = "samples", "steps"


def mark_variable(variable: Any, *, follows: str) -> None:
    """Declare what changes a custom variable, if hvdkit cannot find it out from the train step.

    Args:
        variable: a non-trainable Keras or TensorFlow variable of a model that is trained on data of
            ``hvd.data.shard``.
        follows: ``"steps"`` for a variable that changes in every step in the same way on all ranks, such as a counter;
            ``"samples"`` for a variable that depends on the rank's samples, such as a moving average, and does not
            change in a step for which this rank has no samples left.

    Raises:
        UsageError: ``follows`` has another value, or the first argument is not a variable.

    Example:

    >>> import keras, hvdkit as hvd
    >>> hvd.init()
    >>> counter = keras.Variable(0, trainable=False)
    >>> hvd.data.mark_variable(counter, follows="steps")
    """
    if follows not in (SAMPLES, STEPS):
        raise UsageError(f'`follows` must be "steps" or "samples". Received: follows={follows!r}.')
    held = backend_variable(variable)
    if not isinstance(held, tf.Variable):
        raise UsageError(f"A Keras or TensorFlow variable is needed. Received: {variable!r}.")
    attributes.set_follows(held, follows)


def mark_of(variable: Any) -> str | None:
    """What ``mark_variable`` was told of a variable; None if it was told nothing."""
    return attributes.follows_of(backend_variable(variable))


def kinds_of_change(graph: tf.Graph, batch: Any, handles: list[tf.Tensor]) -> list[set[str]]:
    """What changes each variable in the part of a step that is traced so far.

    Args:
        graph: in which the step is traced.
        batch: the tensors that hold samples, in any structure.
        handles: of the variables, as ``graph`` has captured them.

    Returns:
        For each variable a set of ``"samples"`` and ``"steps"``, one for each kind of assignment that there is; empty
        where nothing assigns it.
    """
    definition = graph.as_graph_def()
    library = {function.signature.name: function for function in definition.library.function}
    leaves = tf.nest.flatten(batch, expand_composites=True)
    masks = {_tensor(leaf.name): 1 for leaf in leaves if isinstance(leaf, tf.Tensor)}
    masks |= {(handle.op.name, 0): 2 << i for i, handle in enumerate(handles)}
    writes, _ = _Analysis(library).nodes(definition.node, masks)
    origins_of = [writes.get(handle.op.name, set()) for handle in handles]
    # A variable follows the samples if it is computed from them, or from another one that does; an assignment that is
    # computed from the variable alone does not count.
    follow, before = 1, 0
    while follow != before:
        before = follow
        for i, origins in enumerate(origins_of):
            if any(origin & follow for origin in origins):
                follow |= 2 << i
    return [{SAMPLES if origin & follow & ~(2 << i) else STEPS for origin in o} for i, o in enumerate(origins_of)]


def _tensor(name: str) -> tuple[str, int]:
    """A tensor's node and number, from ``node:3``, ``node`` or, within a function, ``node:output:3``."""
    node, *rest = name.split(":")
    return node, int(rest[-1]) if rest else 0


@dataclass
class _Function:
    """A function by its arguments: bit n of a mask says that something depends on argument n, or on its content.

    Attributes:
        outputs: a mask for each output.
        writes: for the arguments that are variables, the masks of what is assigned.
    """

    outputs: list[int]
    writes: dict[int, set[int]]

    def called(self, inputs: list[int]) -> tuple[list[int], dict[int, set[int]]]:
        """The same by the masks of what it is called with."""
        through = functools.partial(_through, inputs)
        return list(map(through, self.outputs)), {n: set(map(through, masks)) for n, masks in self.writes.items()}


def _through(inputs: list[int], mask: int) -> int:
    made = 0
    for n, each in enumerate(inputs):
        if mask >> n & 1:
            made |= each
    return made


class _Analysis:
    """Follows what things depend on through a graph and the functions it calls, as sets of bits."""

    def __init__(self, library: dict[str, Any]) -> None:
        self._library = library
        self._known: dict[str, _Function] = {}

    def nodes(
        self, nodes: Iterable[Any], masks: dict[tuple[str, int], int]
    ) -> tuple[dict[str, set[int]], Callable[[tuple[str, int]], int]]:
        """Go through the nodes of a graph until nothing new is found.

        Args:
            nodes: of a ``GraphDef`` or a ``FunctionDef``.
            masks: of the tensors that things may depend on; of a variable, its content.

        Returns:
            The masks of what is assigned to each of the tensors above, by its node; and the mask of any tensor.
        """
        known = dict(masks)
        whole: dict[str, int] = {}  # of nodes whose every output depends on the same
        homes = {node: node for node, _ in masks}
        of = lambda tensor: known.get(tensor, 0) | whole.get(tensor[0], 0) | known.get((homes.get(tensor[0], ""), 0), 0)
        while True:
            writes: dict[str, set[int]] = {}
            before = (dict(known), dict(whole), len(homes))
            for node in nodes:
                inputs = [_tensor(name) for name in node.input if not name.startswith("^")]
                home = homes.get(inputs[0][0]) if inputs else None
                if _is_cut(node):
                    continue
                if node.op == "Identity" and home is not None:
                    homes[node.name] = home
                elif node.op == "IdentityN":  # how tf.custom_gradient ends: results and arguments side by side
                    known |= {(node.name, i): of(tensor) for i, tensor in enumerate(inputs)}
                elif branches := list(_functions(node)):
                    outputs, assigned = self._call(node.op, branches, list(map(of, inputs)))
                    known |= {(node.name, i): mask for i, mask in enumerate(outputs)}
                    for n, origins in assigned.items():
                        if inputs[n][0] in homes:  # else a table, or a variable that was not asked for
                            writes.setdefault(homes[inputs[n][0]], set()).update(origins)
                elif home is not None and _is_write(node.op):
                    writes.setdefault(home, set()).add(functools.reduce(operator.or_, map(of, inputs[1:]), 0))
                else:
                    whole[node.name] = functools.reduce(operator.or_, map(of, inputs), 0)
            if before == (known, whole, len(homes)):
                return writes, of

    def function(self, name: str) -> _Function:
        """What a function of the graph does."""
        if name not in self._known:
            definition = self._library[name]
            arguments = [argument.name for argument in definition.signature.input_arg]
            masks = {(argument, 0): 1 << n for n, argument in enumerate(arguments)}
            writes, of = self.nodes(definition.node_def, masks)
            outputs = [of(_tensor(definition.ret[output.name])) for output in definition.signature.output_arg]
            self._known[name] = _Function(outputs, {arguments.index(a): masks for a, masks in writes.items()})
        return self._known[name]

    def _call(self, op: str, branches: list[str], inputs: list[int]) -> tuple[list[int], dict[int, set[int]]]:
        if "While" in op:
            return self._loop(branches, inputs)
        choice = 0 if "Call" in op else 1  # If and Case begin with what decides, on which then all depends
        deciding = functools.reduce(operator.or_, inputs[:choice], 0)
        outputs: list[int] = []
        writes: dict[int, set[int]] = {}
        for branch in branches:
            made, assigned = self.function(branch).called(inputs[choice:])
            outputs = [a | b | deciding for a, b in itertools.zip_longest(outputs, made, fillvalue=0)]
            for n, origins in assigned.items():
                writes.setdefault(n + choice, set()).update(origin | deciding for origin in origins)
        return outputs, writes

    def _loop(self, branches: list[str], inputs: list[int]) -> tuple[list[int], dict[int, set[int]]]:
        condition, body = map(self.function, branches)
        while True:  # what one iteration makes of its inputs are the inputs of the next
            deciding = condition.called(inputs)[0][0]
            outputs, writes = body.called(inputs)
            after = [mask | made | deciding for mask, made in zip(inputs, outputs, strict=True)]
            if after == inputs:
                return after, {n: {origin | deciding for origin in origins} for n, origins in writes.items()}
            inputs = after


def _is_cut(node: Any) -> bool:
    """Whether a node brings what is the same whatever this rank's samples are, or what follows from all ranks'."""
    last = node.name.rpartition("/")[2]
    return last.startswith(ZERO_WITHOUT_SAMPLES) or is_collective(node.op, last)


def _is_write(operation: str) -> bool:
    return operation.startswith(("Assign", "Resource")) and not operation.startswith("ResourceGather")


def _functions(node: Any) -> Iterator[str]:
    """The functions that a node calls, in the order TensorFlow has them."""
    for name in ("f", "then_branch", "else_branch", "cond", "body"):
        if name in node.attr and node.attr[name].HasField("func"):
            yield node.attr[name].func.name
    if "branches" in node.attr:
        yield from (function.name for function in node.attr["branches"].list.func)


def untrained_variables(model: keras.Model) -> list:
    """The variables of a model that a step may change and no optimizer does."""
    alike = {id(v) for v in parameters_of(model)}
    variables = [*model.non_trainable_variables, *weights_of(model)]
    return [v for v in {id(v): v for v in variables}.values() if id(v) not in alike]


def following_samples(model: keras.Model, batch: Any, variables: list) -> list:
    """Those of the variables that the step, which has just been traced or made, changes by what its samples hold.

    Raises:
        UsageError: it cannot be told of a variable; it is named, with the way to mark it.
    """
    graph = tf.compat.v1.get_default_graph()
    if tf.executing_eagerly():
        known = _without_a_graph(model, variables)
    else:
        known = kinds_of_change(graph, batch, [graph.capture(backend_variable(v).handle) for v in variables])
    unclear = [v for v, kinds in zip(variables, known, strict=True) if len(kinds) > 1 and mark_of(v) is None]
    if unclear:
        names = ", ".join(attributes.path_of(v) for v in unclear[:3])
        why = "the step runs eagerly" if tf.executing_eagerly() else "the step assigns both to it"
        raise UsageError(
            f"A rank may have no samples left in a step, and hvdkit cannot tell whether {names} then changes as on the "
            f"other ranks (a counter) or stays unchanged (a moving average of samples): {why}.",
            fix='hvd.data.mark_variable(variable, follows="steps") or follows="samples" before fit; or '
            "drop_remainder=True in hvd.data.shard, with which every rank always has samples.",
        )
    marked = [kinds if mark_of(v) is None else {mark_of(v)} for v, kinds in zip(variables, known, strict=True)]
    return [v for v, kinds in zip(variables, marked, strict=True) if SAMPLES in kinds]


def _without_a_graph(model: keras.Model, variables: list) -> list[set[str]]:
    """Of Keras' own layers, moving averages; of variables of the user's own it is unknown."""
    is_of_keras = lambda layer: type(layer).__module__.startswith("keras.")
    layers = [layer for layer in layers_of(model) if all(map(is_of_keras, layers_of(layer)))]
    of_keras = {id(v) for layer in layers for v in layer.non_trainable_variables}
    return [{SAMPLES} if id(v) in of_keras else {SAMPLES, STEPS} for v in variables]
