"""The gradient's way over the ranks, from top to bottom."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import tensorflow as tf

from hvdkit.comm import world
from hvdkit.comm.consistency import assert_same_on_all_ranks
from hvdkit.comm.engine import Engine, ReduceOp
from hvdkit.comm.ordering import CollectiveOrder
from hvdkit.comm.process_sets import engine_of
from hvdkit.comm.single import SingleEngine
from hvdkit.errors import UsageError
from hvdkit.grads import replica_context
from hvdkit.grads.gradient_norms import GradientNorms
from hvdkit.grads.groups import partition
from hvdkit.grads.identity import LocalVariables, name_of
from hvdkit.grads.options import ReduceOptions
from hvdkit.grads.transport import Transport
from hvdkit.utils.training_start import training_begins

_ordinals = itertools.count()
_NO_VARIABLES = LocalVariables()


class GradientPipeline:
    """Reduces gradients over the ranks; eager or inside a ``tf.function``.

    Args:
        options: how gradients are reduced, checked by ``check_reduce_options``.
        prefix: what the collectives' names begin with; the same on every rank, and of no other pipeline. None takes the
            next number: ranks make their distributed optimizers in the same order, while the names of layers and
            optimizers may carry a counter that differs, when one rank has built one model more.
    """

    def __init__(self, options: ReduceOptions, prefix: str | None = None):
        self.options = options
        self.process_set = options.process_set
        # A rank outside the process set trains by itself.
        outside = self.process_set is not None and self.process_set.included() is False
        self.engine: Engine = SingleEngine() if outside else engine_of(self.process_set)
        self._world = world.engine()
        self.order = CollectiveOrder()
        # Of the exchange whether all gradients are finite, if it is not part of the reduction.
        self.finite_order = CollectiveOrder()
        self.prefix = prefix or f"hvdkit.{next(_ordinals)}"
        self.norms: GradientNorms | None = None  # adds up the norms of the gradients, if a callback asks for them
        self._agreed: set[frozenset] = set()

    @property
    def reductions(self) -> tf.Variable:
        """How often gradients were reduced."""
        return self.order.count

    @property
    def is_over(self) -> bool:
        """Whether the world that it was made in has been left."""
        return not world.is_initialized() or world.engine() is not self._world

    def __call__(
        self,
        gradients: list,
        variables: list,
        numbers: list[int] | None = None,
        *,
        local: LocalVariables = _NO_VARIABLES,
        call: str = "",
    ) -> list:
        """Reduce gradients over the ranks.

        Args:
            gradients: one per variable: ``tf.Tensor``, ``tf.IndexedSlices`` or None.
            variables: the variables, for their names in messages.
            numbers: each variable's number in its optimizer; by default its place here. An optimizer may be applied
                several times in a step, to other variables each time, and each needs a name of its own.
            local: variables whose gradients stay this rank's own.
            call: told apart by this, two calls of one graph may be under way at once.

        Returns:
            The reduced gradients, None where there was None.

        Raises:
            CommunicationError: the ranks bring different gradients. Checked before the first reduction of a set of
                variables; ranks that bring different sets *later*, each of which all have brought before, wait for one
                another until the deadline.
        """
        if self.engine.size == 1:
            return list(gradients)
        if self.is_over:
            raise UsageError(
                f"These gradients were to be reduced over the {self.engine.size} ranks of a world that hvd.shutdown() "
                "has left.",
                fix="hvd.shutdown() after the last step; or hvd.init() again, and then "
                "hvd.DistributedOptimizer(optimizer) and compile again.",
            )
        if replica_context.is_active():  # their gradients are summed already: one reduction for all of them
            reduce = lambda first: self(first, variables, numbers, local=local, call=call)
            return replica_context.merge_call_once(reduce, gradients)
        numbers = range(len(variables)) if numbers is None else numbers
        names = [f"{self.prefix}{call}.{n}.{name_of(v)}" for n, v in zip(numbers, variables, strict=True)]
        present = [i for i, gradient in enumerate(gradients) if gradient is not None]
        own = [i for i in present if local and variables[i] in local]
        shared = {i: self._densify_if_asked(gradients[i]) for i in present if i not in own}
        self._agree_once(shared, names)
        own_norm = self.norms.squared_norm(shared.values()) if self.norms else None

        with self.order.next() as made:
            reduced = {i: self._gather(g, names[i]) for i, g in shared.items() if _is_sparse(g)}
            dense = [i for i in shared if i not in reduced]
            if self.options.groups is None:  # the last layer's comes first: so the first bucket is soon full
                dense.reverse()
            for group in partition(dense, variables, self.options.groups):
                reduced |= self._reduce({i: shared[i] for i in group}, names)
            made.extend(reduced.values())
        if self.norms:
            self.norms.add_step(own_norm, self.norms.squared_norm(reduced.values()))
        reduced |= {i: self._scale_local(gradients[i]) for i in own}
        return [reduced.get(i) for i in range(len(gradients))]

    def _densify_if_asked(self, gradient: Any) -> Any:
        if _is_sparse(gradient) and not self.options.sparse_as_dense:
            return gradient
        return tf.convert_to_tensor(gradient)

    def _reduce(self, dense: dict[int, tf.Tensor], names: list[str]) -> dict[int, tf.Tensor]:
        if not dense:
            return {}
        options = self.options
        transport = Transport(self.engine, options.bucket_bytes, grouped=options.groups is not None)
        with _on(options.device_dense):
            wire = [
                _sendable(g) if options.predivide == 1 else _sendable(g) / options.predivide for g in dense.values()
            ]
            received = transport.reduce_by(options.reducer, wire, [names[i] for i in dense], options.op)
            received = received if options.predivide == 1 else [r * options.predivide for r in received]
            return {i: tf.cast(r, dense[i].dtype) for i, r in zip(dense, received, strict=True)}

    def _gather(self, slices: tf.IndexedSlices, name: str) -> tf.IndexedSlices:
        """Every rank's slices, one after the other: an optimizer adds up what falls on the same row."""
        with _on(self.options.device_sparse):
            values = _sendable(slices.values)
            if self.options.op is not ReduceOp.SUM:
                values = values / tf.cast(self.engine.size, values.dtype)
            values = self.engine.allgather(values, f"{name}.values")
            indices = self.engine.allgather(slices.indices, f"{name}.indices")
            return tf.IndexedSlices(tf.cast(values, slices.dtype), indices, slices.dense_shape)

    def _scale_local(self, gradient: Any) -> Any:
        if not self.options.scale_local:
            return gradient
        ranks = tf.cast(self.engine.size, gradient.dtype)
        if _is_sparse(gradient):
            return tf.IndexedSlices(gradient.values / ranks, gradient.indices, gradient.dense_shape)
        return gradient / ranks

    def _agree_once(self, shared: dict[int, Any], names: list[str]) -> None:
        """Before the first reduction: do all ranks bring the same? Afterwards a difference would be a hang."""
        these = frozenset(names[i] for i in shared)
        if these in self._agreed:
            return
        training_begins()
        signatures = [
            [names[i], f"{g.dtype.name} {'sparse' if _is_sparse(g) else list(g.shape)}"] for i, g in shared.items()
        ]
        with tf.init_scope():
            assert_same_on_all_ranks(
                "their gradients",
                signatures,
                by="hvd.DistributedOptimizer or hvd.DistributedGradientTape",
                fix="build the same model with the same trainable layers, and the same number of distributed "
                "optimizers, on every rank.",
                process_set=self.process_set,
            )
        self._agreed.add(these)


def _on(device: str) -> Any:
    return tf.device(device) if device else contextlib.nullcontext()


def _is_sparse(gradient: Any) -> bool:
    return isinstance(gradient, tf.IndexedSlices)


def _sendable(tensor: tf.Tensor) -> tf.Tensor:
    """No transport sums bfloat16: it travels as float32, which holds it exactly."""
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor
