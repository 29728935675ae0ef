"""Everything of Keras and TensorFlow that hvdkit uses and that no version of them promises.

Data only: nothing is imported here. ``missing`` compares the table with the installed versions.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Required:
    """A name that has to be there, and what of hvdkit does not work without it.

    Attributes:
        owner: the class or module; of what only objects have, the kind of object (see ``missing.SAMPLES``).
        name: of its attribute.
        needed_for: what does not work without it.
        parameters: what it is called with, first; None for what is not called, and where TensorFlow does not say.
        use: ``"call"``: hvdkit calls it, or reads it; ``"override"``: a method of hvdkit takes its place, with these
            parameters and no others; ``"wrap"``: a function in its place that looks at these and passes all on.
    """

    owner: str
    name: str
    needed_for: str
    parameters: tuple[str, ...] | None = None
    use: str = "call"

    def __str__(self) -> str:
        call = "" if self.parameters is None else f"({', '.join(self.parameters)})"
        return f"{self.owner}.{self.name}{call}"


def private_names() -> set[str]:
    """The names in the table that begin with an underscore."""
    return {required.name for required in REQUIRED if required.name.startswith("_")}


_OPTIMIZER = "keras.optimizers.Optimizer"
_BUILT = "a built optimizer"
_MODEL = "a compiled model"
_EPOCHS = "keras.src.trainers.epoch_iterator.EpochIterator"
_ADAPTERS = "keras.src.trainers.data_adapters"
_FUNCTIONS = "tensorflow.python.eager.polymorphic_function.atomic_function"

_REDUCTION = "hvd.DistributedOptimizer, which reduces before Keras clips"
_REPLICAS = "hvd.DistributedOptimizer on the replicas of a strategy"
_SLOTS = "checkpoints and BroadcastGlobalVariablesCallback, which find an optimizer's slots"
_PASSES = "backward_passes_per_step, and checkpoints in the middle of accumulated steps"
_COMPAT = "python -m hvdkit.compat"
_SHARDED = "hvd.data.shard"
_CALLBACK = "hvd.callbacks."
_ORDER = "the MPI engine, which orders the collectives of a graph"

REQUIRED = (
    # What is overridden.
    Required(_OPTIMIZER, "_backend_apply_gradients", _REDUCTION, ("grads", "trainable_variables"), "override"),
    Required(_OPTIMIZER, "_clip_gradients", _REDUCTION, ("grads",), "override"),
    Required(
        _OPTIMIZER,
        "_backend_update_step",
        "hvd.optim.LocalSGD",
        ("grads", "trainable_variables", "learning_rate"),
        "override",
    ),
    Required(_OPTIMIZER, "_overwrite_variables_directly_with_gradients", _REDUCTION, ("grads", "vars"), "override"),
    Required(_OPTIMIZER, "_all_reduce_sum_gradients", _REPLICAS, ("grads_and_vars",), "override"),
    Required(_OPTIMIZER, "_apply_weight_decay", "hvd.optim.LARS", ("variables",), "override"),
    Required(
        "keras.layers.BatchNormalization", "_moments", "hvd.SyncBatchNormalization", ("inputs", "mask"), "override"
    ),
    Required(
        "keras.callbacks.ModelCheckpoint",
        "_save_model",
        f"{_CALLBACK}BestModelCheckpoint",
        ("epoch", "batch", "logs"),
        "override",
    ),
    # What is replaced while hvdkit trains.
    Required(
        "keras.Model", "_maybe_symbolic_build", "model.fit on several ranks", ("iterator", "data_batch"), "override"
    ),
    Required(_EPOCHS, "_enumerate_iterator", _SHARDED, (), "override"),
    Required(_FUNCTIONS, "from_func_graph", _ORDER, ("name", "graph"), "wrap"),
    # Optimizers.
    Required(_OPTIMIZER, "_get_variable_index", _REDUCTION, ("variable",)),
    Required(_OPTIMIZER, "_overwrite_variable_with_gradient", _REDUCTION, ("variable",)),
    Required(_OPTIMIZER, "_use_weight_decay", "hvd.optim.LARS", ("variable",)),
    Required(_OPTIMIZER, "_backend_reset_gradient_accumulators", _REPLICAS, ()),
    Required(_OPTIMIZER, "_backend_increment_gradient_accumulators", _REPLICAS, ("grads", "acc_grads")),
    Required(_OPTIMIZER, "_update_model_variables_moving_average", _REPLICAS, ("trainable_variables",)),
    Required(_OPTIMIZER, "_overwrite_model_variables_with_average_value", _REPLICAS, ("trainable_variables",)),
    Required(_BUILT, "_distribution_strategy", _REPLICAS),
    Required(_BUILT, "_trainable_variables", _SLOTS),
    Required(_BUILT, "_variables", _SLOTS),
    Required(_BUILT, "_accumulated_gradients", _PASSES),
    Required(_BUILT, "_iterations", _PASSES),
    Required(_BUILT, "_model_variables_moving_average", "checkpoints of optimizers with use_ema"),
    Required(_BUILT, "_learning_rate", "hvd.schedules"),
    Required(_BUILT, "momentums", f"{_CALLBACK}LearningRateScheduleCallback with momentum_correction"),
    Required("a built RMSprop", "_momentums", f"{_CALLBACK}LearningRateScheduleCallback with momentum_correction"),
    Required("a LossScaleOptimizer", "inner_optimizer", "mixed_float16"),
    # Models and layers.
    Required(_MODEL, "_symbolic_build", "model.fit on several ranks", ("iterator", "data_batch")),
    Required(_MODEL, "_flatten_metrics_in_order", f"model.evaluate with {_SHARDED}", ("logs",)),
    Required(_MODEL, "_distribute_strategy", "model.fit on several ranks"),
    Required(_MODEL, "_initial_epoch", f"{_CALLBACK}CheckpointCallback, which resumes"),
    Required(_MODEL, "_loss_tracker", f"{_CALLBACK}MetricAverageCallback, which counts samples"),
    Required(_MODEL, "_functional", "hvd.layers.zero_last_gamma"),
    Required("a Functional model", "_nodes_by_depth", "hvd.layers.zero_last_gamma"),
    Required("a call of a layer", "operation", "hvd.layers.zero_last_gamma"),
    Required("a call of a layer", "parent_nodes", "hvd.layers.zero_last_gamma"),
    Required("keras.layers.Layer", "_flatten_layers", "hvd.layers.zero_last_gamma", ()),
    Required("a built layer", "_trainable_variables", "broadcasts, which find the weights of frozen layers"),
    Required(
        "keras.callbacks.ModelCheckpoint",
        "_get_file_path",
        f"{_CALLBACK}BestModelCheckpoint",
        ("epoch", "batch", "logs"),
    ),
    Required(
        "keras.callbacks.ModelCheckpoint",
        "_should_save_model",
        f"{_CALLBACK}BestModelCheckpoint",
        ("epoch", "batch", "logs", "filepath"),
    ),
    Required("a callback", "_model", "checkpoints of callbacks, which leave it out"),
    Required("a SwapEMAWeights", "_ema_weights_in_model", "checkpoints of the callback SwapEMAWeights"),
    # Data and random numbers.
    Required(_EPOCHS, "_get_iterator", _SHARDED, ()),
    Required("an epoch", "_num_batches", _SHARDED),
    Required("an epoch", "_distributed_dataset", "model.fit on several ranks"),
    Required(f"{_ADAPTERS}.data_adapter", "DataAdapter", _SHARDED),
    Required(f"{_ADAPTERS}.data_adapter_utils", "is_scipy_sparse", f"{_SHARDED} of sparse arrays", ("x",)),
    Required(f"{_ADAPTERS}.data_adapter_utils", "scipy_sparse_to_tf_sparse", f"{_SHARDED} of sparse arrays", ("x",)),
    Required(f"{_ADAPTERS}.array_slicing", "to_tensorflow_sparse_wrapper", f"{_SHARDED} of sparse arrays", ("sparse",)),
    Required(
        f"{_ADAPTERS}.array_slicing",
        "slice_tensorflow_sparse_wrapper",
        f"{_SHARDED} of sparse arrays",
        ("sparse_wrapper", "indices"),
    ),
    Required("keras.src.random.seed_generator", "global_seed_generator", "checkpoints of random numbers", ()),
    Required(
        "keras.src.backend.common.global_state", "get_global_attribute", "checkpoints of random numbers", ("name",)
    ),
    # TensorFlow.
    Required("the handle of a mirrored variable's part", "_distributed_container", _REPLICAS),
    Required("a variable", "_unique_id", "register_local_var and groups, which tell variables apart"),
    Required("tensorflow.__internal__.distribute", "strategy_supports_no_merge_call", _REPLICAS, ()),
    Required("a strategy's extended", "worker_devices", _REPLICAS),
    Required("a strategy's extended", "call_for_each_replica", _REPLICAS, ("fn", "args")),
    Required("the graph of a tf.function", "outer_graph", "hvd.DistributedGradientTape"),
    Required("the graph of a tf.function", "building_function", "hvd.DistributedGradientTape"),
    Required("the graph of a tf.function", "capture", f"{_SHARDED} with uneven batches", ("tensor",)),
    Required("tensorflow.Operation", "_add_control_input", _ORDER),
    Required("tensorflow.python.framework.op_def_registry", "get", _ORDER, ("name",)),
    Required("tensorflow.raw_ops", "PyFunc", "jit_compile, which finds what XLA cannot compile"),
    Required("tensorflow.raw_ops", "EagerPyFunc", "jit_compile, which finds what XLA cannot compile"),
    # What is changed for scripts of Keras 2.
    Required("keras.Sequential", "_maybe_rebuild", _COMPAT, (), "override"),
    Required("keras.layers.Layer", "_post_build", _COMPAT, (), "override"),
    Required(_MODEL, "_layers", _COMPAT),
    Required("a built layer", "_inbound_nodes", _COMPAT),
    Required("a call of a layer", "input_tensors", _COMPAT),
    Required("a call of a layer", "outputs", _COMPAT),
    Required("a list of callbacks", "_model", _COMPAT),
    Required("keras.src.activations", "get", _COMPAT, ("identifier",)),
    Required("keras._tf_keras.keras", "layers", _COMPAT),
)
