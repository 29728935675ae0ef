"""``hvd.DistributedGradientTape``: gradients over all ranks, for custom training loops."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from hvdkit.comm.compression import Compression
from hvdkit.comm.engine import ReduceOp
from hvdkit.comm.process_sets import ProcessSet, global_process_set
from hvdkit.errors import UsageError
from hvdkit.grads import batch_weight, replica_context, tape_pipelines
from hvdkit.grads.identity import LocalVariables, variables_of_layers
from hvdkit.grads.options import check_reduce_options
from hvdkit.keras_internals import attributes


@tf.autograph.experimental.do_not_convert  # inside tf.function it would rewrite what makes the pipeline
def DistributedGradientTape(  # noqa: PLR0917  Horovod's arguments in Horovod's order
    gradtape: tf.GradientTape,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    op: ReduceOp | str = ReduceOp.AVERAGE,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
) -> tf.GradientTape:
    """Make a gradient tape reduce the result of its ``gradient`` over all ranks.

    The tape itself is modified and returned. Use a plain optimizer with it, because a distributed optimizer would
    reduce a second time. Every rank must make the same calls in the same order. ``register_local_source(variable)``
    excludes a variable's gradient from the reduction.

    Args:
        gradtape: a ``tf.GradientTape``, before, inside or after its ``with`` block.

    The other arguments are those of ``hvd.DistributedOptimizer``.

    Raises:
        UsageError: ``gradtape`` is not a tape, or an argument cannot be used.

    Example:

    >>> import tensorflow as tf, hvdkit as hvd
    >>> hvd.init()
    >>> w = tf.Variable(3.0)
    >>> with tf.GradientTape() as tape:
    ...     loss = w * w
    >>> tape = hvd.DistributedGradientTape(tape)
    >>> float(tape.gradient(loss, w))
    6.0
    """
    if not isinstance(gradtape, tf.GradientTape):
        raise UsageError(f"`gradtape` must be a tf.GradientTape. Received: {gradtape!r}.")
    if isinstance(gradtape, _Reducing):
        raise UsageError("This tape is already distributed.", fix="wrap a tape only once.")
    options = check_reduce_options(
        compression=compression,
        op=op,
        sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor,
        num_groups=num_groups,
        groups=groups,
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
        device_dense=device_dense,
        device_sparse=device_sparse,
    )
    with tf.init_scope():
        pipeline = tape_pipelines.pipeline_for(options)
    attributes.set_reduction(gradtape, pipeline, LocalVariables())
    gradtape.__class__ = _class(type(gradtape))
    return gradtape


def PartialDistributedGradientTape(  # noqa: PLR0917  Horovod's arguments in Horovod's order
    gradtape: tf.GradientTape,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    op: ReduceOp | str = ReduceOp.AVERAGE,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
) -> tf.GradientTape:
    """A ``DistributedGradientTape`` that does not reduce the gradients of some layers.

    Args:
        local_layers: a built Keras layer, or several, whose trainable weights are not reduced.

    The other arguments are those of ``DistributedGradientTape``.
    """
    local = variables_of_layers(local_layers)
    tape = DistributedGradientTape(
        gradtape,
        device_dense,
        device_sparse,
        compression,
        sparse_as_dense,
        op,
        gradient_predivide_factor,
        num_groups,
        groups,
        process_set,
        scale_local_gradients,
    )
    for variable in local:
        tape.register_local_source(variable)
    return tape


@functools.cache
def _class(base: type) -> type:
    return type(base.__name__, (_Reducing, base), {"__doc__": base.__doc__})


class _Reducing:
    """A tape whose gradients are reduced."""

    def register_local_source(self, source: Any) -> None:
        """Exclude the gradient of a Keras or TensorFlow variable from the reduction."""
        attributes.local_sources_of(self).add(source)

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: Any = tf.UnconnectedGradients.NONE,
        use_generic_names: bool = False,
    ) -> Any:
        """The gradient of ``target`` with respect to ``sources``, reduced over the ranks, in the sources' structure."""
        if replica_context.is_active():
            raise UsageError(
                "A DistributedGradientTape reduces over ranks, not over the replicas of a tf.distribute strategy.",
                fix="inside a strategy use a plain tape and hvd.DistributedOptimizer, which reduces over both.",
            )
        local = attributes.local_sources_of(self)
        own = super().gradient(target, sources, output_gradients, unconnected_gradients)
        variables, gradients = tf.nest.flatten(sources), batch_weight.weigh_gradients(tf.nest.flatten(own))
        reduce = attributes.pipeline_of(self)
        reduced = reduce(gradients, variables, local=local, call=tape_pipelines.call_index())
        return tf.nest.pack_sequence_as(sources, reduced)

    def get_local_and_global_gradients(
        self, target: Any, sources: list, output_gradients: Any = None, use_generic_names: bool = False
    ) -> tuple[list, list]:
        """Pairs of variable and gradient: those of the local variables, and those of the others."""
        gradients = self.gradient(target, sources, output_gradients, use_generic_names=use_generic_names)
        pairs = list(zip(sources, gradients, strict=True))
        local = attributes.local_sources_of(self)
        return [(s, g) for s, g in pairs if s in local], [(s, g) for s, g in pairs if s not in local]
