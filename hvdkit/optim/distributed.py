"""``hvd.DistributedOptimizer``: a Keras optimizer that averages its gradients over the ranks before it uses them."""

from __future__ import annotations

import itertools
from typing import Any

import keras

from hvdkit.comm.compression import Compression
from hvdkit.comm.engine import ReduceOp
from hvdkit.comm.process_sets import ProcessSet, global_process_set
from hvdkit.errors import UsageError
from hvdkit.grads.identity import variables_of_layers
from hvdkit.grads.options import check_reduce_options
from hvdkit.grads.pipeline import GradientPipeline
from hvdkit.keras_internals import optimizers
from hvdkit.keras_internals.model_contents import reduction_state_of
from hvdkit.optim import loss_scale
from hvdkit.optim.allreduce import AllreduceMixin
from hvdkit.optim.convert import convert
from hvdkit.optim.reduction_state import ReductionState
from hvdkit.schedules.learning_rate import check_accumulation
from hvdkit.utils.numbers import whole

_ordinals = itertools.count()  # two optimizers may have one name


def DistributedOptimizer(  # noqa: PLR0917  Horovod's arguments in Horovod's order
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: ReduceOp | str = ReduceOp.AVERAGE,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
    *,
    bucket_bytes: int | None = None,
) -> Any:
    """Make a Keras optimizer reduce its gradients over all ranks before it clips and applies them.

    With N ranks of batch b it then does what one process does with batch N*b: ``clipnorm``, ``global_clipnorm`` and
    ``clipvalue`` see the mean gradient; ``gradient_accumulation_steps=k`` reduces once per k steps; a
    ``LossScaleOptimizer``, outside or inside, or put around it by ``compile`` under ``mixed_float16``, skips a step on
    every rank or on none.

    The optimizer itself is changed and returned: its slots, ``iterations`` and learning rate stay, ``isinstance`` still
    holds, and a model saved with it opens in plain Keras as a model with the plain optimizer. In a single process it
    behaves like the plain optimizer. ``register_local_var(variable)`` keeps a variable's gradient this rank's own.

    Args:
        optimizer: a ``keras.optimizers.Optimizer``, or a name such as ``"adam"``.
        name: the prefix of the names of its collectives; the same on every rank.
        device_dense, device_sparse: where dense and sparse gradients are reduced; "" leaves it to TensorFlow.
        compression: how gradients are compressed: ``hvd.Compression.none``, ``hvd.Compression.fp16``, a name, a dict
            ``{"name": ...}``, or an object with ``reduce`` (see ``hvdkit.grads.reducers``) or with Horovod's
            ``compress`` and ``decompress``.
        sparse_as_dense: convert sparse gradients (of an Embedding) to dense ones before they are reduced. By default
            the ranks' slices are gathered and stay slices. As in one process, Keras' optimizers apply them only to the
            rows that they name, and clip them as slices. (Accumulation makes them dense, in Keras too. With
            ``loss_scale_factor``, for which Keras raises an error, they are converted to dense.)
        gradient_predivide_factor: divides by this factor f before the sum and by N/f after it; only with
            ``op=hvd.Average``.
        op: ``hvd.Average`` (the mean over the ranks), ``hvd.Sum`` or ``hvd.Adasum``.
        backward_passes_per_step: accumulates gradients over this many steps, and reduces and applies them once. It
            equals Keras' ``gradient_accumulation_steps``, except for the next argument.
        average_aggregated_gradients: use the mean of the accumulated gradients instead of their sum.
        num_groups: the old name of ``groups``.
        groups: reduce gradients together in this many groups, or in the given groups: a list of lists of variables.
        process_set: the ranks whose gradients are reduced together; a rank outside it trains by itself.
        scale_local_gradients: divide the gradients of local variables by the number of ranks, so that they have the
            same weight as in the mean.
        bucket_bytes: the size in bytes of the flat buffers into which small gradients are packed, and above which a
            gradient is sent alone; None lets the engine choose, 0 sends each gradient alone. ``groups`` overrides it.

    Returns:
        The same optimizer, distributed.

    Raises:
        UsageError: not a Keras 3 optimizer, an unknown compression, an op that cannot reduce gradients, ...
        NotInitializedError: ``hvd.init()`` was not called.

    Example:

    >>> import keras, hvdkit as hvd
    >>> hvd.init()
    >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3, global_clipnorm=1.0), compression="fp16")
    >>> isinstance(optimizer, keras.optimizers.Adam)
    True
    """
    return distribute(
        optimizer,
        name,
        backward_passes_per_step=backward_passes_per_step,
        average_aggregated_gradients=average_aggregated_gradients,
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
        bucket_bytes=bucket_bytes,
    )


def distribute(
    optimizer: Any,
    name: str | None = None,
    *,
    mixin: type = AllreduceMixin,
    state: type[ReductionState] = ReductionState,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    **options: Any,
) -> Any:
    """What ``DistributedOptimizer`` does.

    Args:
        optimizer, name, backward_passes_per_step, average_aggregated_gradients: see ``DistributedOptimizer``.
        mixin: what the optimizer's class gets before it.
        state: makes what the optimizer carries of a pipeline.
        options: of the pipeline, by Horovod's names.
    """
    if isinstance(optimizer, str):
        optimizer = keras.optimizers.get(optimizer)
    _check_type(optimizer)
    checked = check_reduce_options(**options)
    if is_distributed(optimizer) and not reduction_state_of(optimizer).pipeline.is_over:
        raise UsageError(f"This {type(optimizer).__name__} is already distributed.", fix="wrap an optimizer only once.")
    inner = optimizers.unwrap(optimizer)
    made = state(GradientPipeline(checked, name and f"{name}.{next(_ordinals)}"))
    backward_passes_per_step = whole(backward_passes_per_step, "backward_passes_per_step", 1)
    if backward_passes_per_step != 1:
        _accumulate(inner, backward_passes_per_step)
        made.sum_of_passes = 1 if average_aggregated_gradients else backward_passes_per_step
    check_accumulation(inner)
    convert(inner, mixin, made)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        loss_scale.wrap_loss_scale_optimizer(optimizer)
    return optimizer


def PartialDistributedOptimizer(  # noqa: PLR0917  Horovod's arguments in Horovod's order
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: ReduceOp | str = ReduceOp.AVERAGE,
    groups: Any = None,
    process_set: ProcessSet = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
) -> Any:
    """A ``DistributedOptimizer`` that does not reduce the gradients of some layers.

    Args:
        local_layers: a built Keras layer, or several, whose trainable weights are not reduced.

    The other arguments are those of ``DistributedOptimizer``.

    Raises:
        UsageError: an item of ``local_layers`` is not a layer or has no weights yet; also as ``DistributedOptimizer``.

    Example:

    >>> import keras, hvdkit as hvd
    >>> hvd.init()
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    >>> optimizer = hvd.PartialDistributedOptimizer(keras.optimizers.SGD(0.1), local_layers=model.layers[0])
    """
    local = variables_of_layers(local_layers)
    optimizer = DistributedOptimizer(
        optimizer,
        name,
        device_dense,
        device_sparse,
        compression,
        sparse_as_dense,
        gradient_predivide_factor,
        op,
        groups=groups,
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
    )
    for variable in local:
        optimizer.register_local_var(variable)
    return optimizer


def is_distributed(optimizer: Any) -> bool:
    """Whether an optimizer, or the one inside a ``LossScaleOptimizer``, reduces its gradients over the ranks."""
    return reduction_state_of(optimizer) is not None


def _accumulate(optimizer: Any, steps: int) -> None:
    """``backward_passes_per_step`` by what Keras has for it; the optimizer may have been built before."""
    if optimizer.gradient_accumulation_steps == steps:  # as when it was saved with them
        return
    if optimizer.gradient_accumulation_steps:
        raise UsageError(
            f"The optimizer accumulates {optimizer.gradient_accumulation_steps} steps already, and "
            f"backward_passes_per_step={steps} asks for it again.",
            fix="use one of the two.",
        )
    optimizer.gradient_accumulation_steps = steps
    if optimizer.built:
        optimizers.add_gradient_accumulators(optimizer)
        counter = optimizers.step_counter(optimizer)  # Keras counts the small steps now
        counter.assign(counter * steps)


def _check_type(optimizer: Any) -> None:
    if hasattr(optimizer, "optimizers"):  # a MultiOptimizer
        raise UsageError(
            f"A {type(optimizer).__name__} cannot be made distributed as a whole.",
            fix="wrap each optimizer of its OptimizerMap: OptimizerMap(hvd.DistributedOptimizer(...), {...}).",
        )
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return
    module = type(optimizer).__module__
    fix = "pass an instance, such as keras.optimizers.Adam(1e-3)."
    if isinstance(optimizer, type):
        fix = f"pass an instance: {optimizer.__name__}(...)."
    elif module.startswith(("tf_keras", "tensorflow")):
        fix = "this is an optimizer of Keras 2 or of tf.compat.v1: use keras.optimizers (Keras 3)."
    elif module.startswith("torch"):
        fix = "this is a PyTorch optimizer: use keras.optimizers."
    raise UsageError(
        f"`optimizer` must be a keras.optimizers.Optimizer of Keras 3. Received: {optimizer!r} (of type {module}."
        f"{type(optimizer).__name__}).",
        fix=fix,
    )
