"""How ``fit`` and ``evaluate`` are fed with sharded data: the epoch, its steps, and the weights of the batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.comm import world
from hvdkit.data import sample_dependence
from hvdkit.data.current import current_data, set_current
from hvdkit.data.sharded import DATA, WEIGHT_OR_ZERO, MapStyleData, Sharded, failures_of, unpack_weighted_batch
from hvdkit.data.speed import measured_sizes
from hvdkit.data.streams import IterableData
from hvdkit.errors import UsageError
from hvdkit.grads.batch_weight import ZERO_WITHOUT_SAMPLES, BatchWeight
from hvdkit.keras_internals.data import EpochIterator, iterator_of, set_num_batches
from hvdkit.keras_internals.model_contents import backend_variable, optimizers_of, reduction_state_of
from hvdkit.keras_internals.models import build_symbolically
from hvdkit.trainer import fit_callbacks
from hvdkit.utils.log import get_logger

# What ``fit`` would do to data of its own, and sharded data have done already: argument -> of hvd.data.shard.
_THEIRS = {
    "y": "y",
    "batch_size": "batch_size",
    "sample_weight": "sample_weight",
    "class_weight": "class_weight",
    "validation_split": None,
    "steps_per_epoch": None,
    "steps": None,
    "validation_steps": None,
}


@contextlib.contextmanager
def feeding(model: keras.Model, arguments: dict[str, Any]) -> Iterator[None]:
    """Around one ``fit`` or ``evaluate``, whose arguments are looked at, and changed where data are sharded.

    Args:
        model: what is trained or evaluated.
        arguments: those of the call, by name.

    Raises:
        UsageError: an argument that belongs to ``hvd.data.shard``, or data that cannot be shared by replicas.
    """
    train, validation = _if_sharded(arguments.get("x")), _if_sharded(arguments.get("validation_data"))
    for data in (train, validation):
        if data is not None:
            _check_replicas(model, data)
    if train is not None:
        for name, there in _THEIRS.items():
            given = arguments.get(name)
            if given is not None and not (name == "validation_split" and not given):
                fix = f"hvd.data.shard(..., {there}=...)." if there else "leave it out."
                raise UsageError(f"`{name}` cannot be given to fit or evaluate with sharded data.", fix=fix)
    fits, before = "validation_data" in arguments, current_data(model)
    if train is None and validation is None:
        yield
        return
    if fits and train is not None:
        arguments["shuffle"] = False
        if isinstance(train, MapStyleData) and train.measured and world.size() > 1:
            train.resize(measured_sizes(model, train))
        set_current(model, train)
        if world.size() == 1:  # elsewhere step.py does it
            build(model, train.get_tf_dataset().element_spec)
    fit_callbacks.add_callback(
        model, arguments, _Feed(train if fits else None, validation if fits else train), first=True
    )
    try:
        with failures_of(train, validation):
            yield
    finally:
        set_current(model, before)  # an evaluation within fit leaves the training's in place
        for data in (train, validation):
            if isinstance(data, IterableData):
                data.stop()


def _if_sharded(x: Any) -> Sharded | None:
    return x if isinstance(x, Sharded) else None


def _check_replicas(model: keras.Model, data: Sharded) -> None:
    if model.distribute_strategy.num_replicas_in_sync > 1 and not (isinstance(data, MapStyleData) and data.uniform):
        raise UsageError(
            "The replicas of a strategy can share batches only if all ranks have equally many samples in every step.",
            fix="use drop_remainder=True, with arrays or files of equal size.",
        )


class _Feed(keras.callbacks.Callback):
    """Tells the data which epoch it is, before all other callbacks."""

    def __init__(self, train: Sharded | None, test: Sharded | None):
        super().__init__()
        self._train, self._test = train, test

    def on_epoch_begin(self, epoch, logs=None):
        if self._train is not None:
            self._train.begin(epoch)

    def on_test_begin(self, logs=None):
        if self._test is not None:
            self._test.begin(0)


def weighted_step(model: keras.Model, step: Callable[[Any], Any], *, trains: bool) -> Callable[[Any], Any]:
    """A train or test step that also takes batches with their weights."""

    def step_with_weight(data: Any) -> Any:
        if not isinstance(data, dict) or DATA not in data:
            return step(data)
        may_be_zero = WEIGHT_OR_ZERO in data
        batch, value = unpack_weighted_batch(data)
        weight = BatchWeight(value, may_be_zero, keep=not tf.distribute.has_strategy())
        undone = _undone_without_samples(model, batch, value) if may_be_zero else contextlib.nullcontext()
        with weight.in_step(), undone:
            logs = step(batch)
        if trains and not weight.met:
            _check_functions(model)
        return logs

    return step_with_weight


@contextlib.contextmanager
def _undone_without_samples(model: keras.Model, batch: Any, weight: tf.Tensor) -> Iterator[None]:
    """Where the rank has no samples and a stand-in for them, what that changed is as before the step."""
    metrics = {id(v): v for v in model.metrics_variables}
    others = [v for v in sample_dependence.untrained_variables(model) if id(v) not in metrics]
    variables = [*metrics.values(), *others]
    before = [tf.identity(backend_variable(v)) for v in variables]
    yield
    follow = {id(v) for v in [*metrics.values(), *sample_dependence.following_samples(model, batch, others)]}

    def put_back() -> None:
        for variable, value in zip(variables, before, strict=True):
            if id(variable) in follow:
                variable.assign(value)

    tf.cond(weight > 0, lambda: None, put_back)


def _check_functions(model: keras.Model) -> None:
    """Refuse a step whose gradients are made in a ``tf.function`` that was traced before batches had weights.

    Nothing of Python in it runs again, so nothing is weighed; where it was traced in such a step, its graph says so.
    """
    if (
        tf.executing_eagerly()
        or not model.trainable_variables
        or not any(map(reduction_state_of, optimizers_of(model)))
    ):
        return
    functions = tf.compat.v1.get_default_graph().as_graph_def().library.function
    names = (node.name.rpartition("/")[2] for function in functions for node in function.node_def)
    if not any(name.startswith(ZERO_WITHOUT_SAMPLES) for name in names):
        raise UsageError(
            f"The train step of {model.name} computes its gradients in a tf.function that was traced for other data, "
            "with batches of equal size on every rank, but the batches of hvd.data.shard may be uneven.",
            fix="create the tf.function again before this fit, or pass data of hvd.data.shard to the first fit too.",
        )


def build(model: keras.Model, spec: Any) -> Exception | None:
    """Build a model and its metrics before its first step, from the specification of a dataset's elements.

    Returns:
        Why it could not be built: whatever a user's ``call`` does without data.
    """
    if type(model).call is keras.Model.call:  # a GAN has only a train_step
        return None
    try:
        with model.distribute_strategy.scope():
            build_symbolically(model, spec[DATA] if isinstance(spec, dict) and DATA in spec else spec)
    except Exception as error:  # noqa: BLE001
        get_logger().debug("why %s could not be built: %s", model.name, error)
        return error
    return None


def around_steps(original: Callable) -> Callable:
    """Let Keras' loop take data whose epochs differ in length."""

    def steps_of_epoch(self):
        data = self.data_adapter
        if isinstance(data, IterableData):
            return _as_long_as_there_is_data(self, data)
        if isinstance(data, Sharded):  # Keras asks only once, and a resumed epoch is shorter
            set_num_batches(self, data.num_batches)
        return original(self)

    return steps_of_epoch


def _as_long_as_there_is_data(epoch: EpochIterator, data: IterableData) -> Iterator[tuple[int, int, Any]]:
    """The steps of an epoch of unknown length.

    Keras itself would begin one step more, which fails for want of data, but not before TensorFlow has counted it as
    one of the optimizer's iterations.
    """
    iterator, step, at_once = iterator_of(epoch), 0, epoch.steps_per_execution
    while data.has_step(step, at_once):
        yield step, step + at_once - 1, iterator
        step += at_once
