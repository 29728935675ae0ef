"""``hvd.schedules.large_batch``: scales the learning rate of one process to many."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.schedules.formula.scaling import scale as scale_by
from hvdkit.schedules.formula.warmup_then_decay import WarmupThenDecay
from hvdkit.utils.deprecation import renamed_arguments, warn_deprecated
from hvdkit.utils.log import get_logger
from hvdkit.utils.numbers import real, whole
from hvdkit.utils.stateful import Entry, Kind

_Schedule = keras.optimizers.schedules.LearningRateSchedule


@renamed_arguments(after="decay")
def large_batch(  # noqa: PLR0917  they are read in this order
    base_lr: float,
    base_batch_size: int,
    batch_size: int,
    steps_per_epoch: int,
    warmup_epochs: float = 5,
    decay: str | dict | _Schedule = "cosine",
    *,
    epochs: float | None = None,
    scale: str = "linear",
    accumulation: int = 1,
    warmup_from: float | None = None,
    size: int | None = None,
) -> LargeBatchSchedule:
    """Scale the learning rate of a small batch to that of a large batch, with a warm-up to it.

    The global batch is ``batch_size * ranks * accumulation`` samples. The rate rises from ``base_lr`` to
    ``base_lr * scale(base_batch_size, global batch)`` over ``warmup_epochs``, by the same amount in every update, and
    then follows ``decay``. It is computed from ``optimizer.iterations`` in the graph, so it is correct after a resume.
    On a different number of ranks, it continues from the same point of the training with the new batch's rate. Rank 0
    logs the result.

    Args:
        base_lr: the rate that was tuned for ``base_batch_size``.
        base_batch_size: samples per update for which ``base_lr`` was tuned.
        batch_size: samples per step on EACH rank, as for ``hvd.data.shard``.
        steps_per_epoch: the number of steps of ``fit`` in an epoch, ``len(train)``; each accumulated step counts.
        warmup_epochs: the length of the warm-up; 0 for no warm-up.
        decay: ``"constant"``, ``"step"``, ``"cosine"``, ``"polynomial"``; a dict with ``"name"`` and its arguments
            (``boundaries`` in epochs and ``factor``; ``floor``; ``power`` and ``floor``); or a Keras
            ``LearningRateSchedule`` of the rate for ``base_batch_size``, whose step 0 is the first update after the
            warm-up; hvdkit scales its rates.
        epochs: the length of the training, including the warm-up; for curves that end with it.
        scale: ``"none"``, ``"linear"`` (SGD) or ``"sqrt"`` (Adam, LAMB).
        accumulation: the number of steps whose gradients are accumulated for one update: the value of
            ``backward_passes_per_step`` or ``gradient_accumulation_steps``.
        warmup_from: the rate before the first update; None is ``base_lr``, or the scaled rate if that is lower.
        size: the number of ranks; None is ``hvd.size()``.

    Raises:
        UsageError: a number is not valid, a name is unknown, or ``epochs`` is missing.

    Paper: P. Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677, 2017.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> schedule = hvd.schedules.large_batch(0.1, 256, 64, steps_per_epoch=100, epochs=90, size=32)
    >>> [round(float(schedule(step)), 6) for step in (0, 250, 500, 9000)]
    [0.1, 0.45, 0.8, 0.0]
    """
    size = world.size() if size is None else size
    batch_size, size = whole(batch_size, "batch_size", 1), whole(size, "size", 1)
    accumulation = whole(accumulation, "accumulation", 1)
    base_lr, base_batch_size = real(base_lr, "base_lr"), real(base_batch_size, "base_batch_size")
    warmup_epochs = real(warmup_epochs, "warmup_epochs")
    global_batch = batch_size * size * accumulation
    factor = scale_by(base_batch_size, global_batch, scale)
    own = decay if isinstance(decay, _Schedule) else None
    if own is None and not isinstance(decay, str) and "name" not in decay:
        raise UsageError(f"`decay` has no name. Received: decay={decay!r}.", fix='{"name": "cosine", ...}.')
    named = {"name": decay} if isinstance(decay, str) else {} if own else dict(decay)
    if own is not None and not np.isclose(float(own(0)), base_lr):
        raise UsageError(
            f"The rate would jump after the warm-up: `decay` begins with {float(own(0)):g}, base_lr is {base_lr:g}.",
            fix="pass the schedule of the training with the small batch, and its first rate as base_lr.",
        )
    if not base_lr > 0:
        raise UsageError(f"`base_lr` must be above 0. Received: base_lr={base_lr!r}.")
    peak = base_lr * factor
    recipe = WarmupThenDecay(
        base_lr=min(base_lr, peak) if warmup_from is None else warmup_from,
        peak_lr=peak,
        warmup_epochs=warmup_epochs,
        decay=named.pop("name", None),
        epochs=epochs,
        arguments=named,
    )
    if world.is_initialized() and world.rank() == 0:
        get_logger().info(
            "Learning rate %g for a batch of %d -> %g for %d (%d per rank x %d ranks x %d accumulated, scale %s), "
            "warm-up of %g epochs.",
            base_lr, base_batch_size, peak, global_batch, batch_size, size, accumulation, scale, warmup_epochs,
        )  # fmt: skip
    return LargeBatchSchedule(recipe, steps_per_epoch, accumulation, decay=own, factor=factor)


@keras.saving.register_keras_serializable("hvdkit")
class LargeBatchSchedule(_Schedule):
    """A ``WarmupThenDecay`` as a Keras learning rate schedule; usually created by ``large_batch``.

    Args:
        recipe: the rate by epochs.
        steps_per_epoch: steps that ``fit`` makes in an epoch.
        accumulation: steps per update. Keras hands a schedule the number of small steps; all of one update have its
            rate.
        decay: a Keras schedule for after the warm-up, instead of the recipe's curve.
        factor: by what its rates are multiplied.
        origin: from which update and epoch epochs are counted, after a change of the number of steps in an epoch.

    Example:

    >>> from hvdkit.schedules import WarmupThenDecay
    >>> schedule = LargeBatchSchedule(WarmupThenDecay(0.1, 0.4, warmup_epochs=2, decay="constant"), 10, accumulation=2)
    >>> [round(float(schedule(step)), 3) for step in (0, 1, 10, 20, 100)]
    [0.1, 0.1, 0.25, 0.4, 0.4]
    """

    def __init__(  # noqa: PLR0917
        self,
        recipe: WarmupThenDecay,
        steps_per_epoch: float,
        accumulation: int = 1,
        decay: _Schedule | None = None,
        factor: float = 1.0,
        origin: tuple[float, float] = (0.0, 0.0),
    ):
        steps_per_epoch, accumulation = real(steps_per_epoch, "steps_per_epoch"), whole(accumulation, "accumulation", 1)
        if not steps_per_epoch > 0:
            raise UsageError(
                f"`steps_per_epoch` must be above 0. Received: steps_per_epoch={steps_per_epoch!r}.",
                fix="it is how many steps `fit` makes in an epoch on each rank: len(train) of hvd.data.shard.",
            )
        self.recipe, self.decay, self.factor = recipe, decay, real(factor, "factor")
        self.steps_per_epoch, self.accumulation = float(steps_per_epoch), accumulation
        # Update number and epoch that the epochs are counted from: other than 0 once the batch has changed on the way.
        with tf.init_scope():
            self._origin = tf.Variable(origin, trainable=False, dtype=tf.float64, name="origin")

    def epoch(self, step: Any) -> Any:
        """How many epochs were made before a step, with fractions; a float64 tensor."""
        update = tf.cast(tf.cast(step, tf.int64) // self.accumulation, tf.float64)
        return self._origin[1] + (update - self._origin[0]) / (self.steps_per_epoch / self.accumulation)

    def __call__(self, step):
        epoch = self.epoch(step)
        fraction = None
        if self.decay is not None:
            per_epoch = self.steps_per_epoch / self.accumulation
            updates = tf.maximum(tf.round((epoch - self.recipe.warmup_epochs) * per_epoch), 0)
            # As a fraction of the peak, which the recipe multiplies by.
            fraction = tf.cast(self.decay(updates), tf.float64) * (self.factor / self.recipe.peak_lr)
        return tf.cast(self.recipe.rate(epoch, keras.ops, fraction), tf.float32)

    def state_dict(self) -> dict[str, Entry]:
        """From where and how epochs are counted, to be kept in a checkpoint."""
        update, epoch = self._origin.numpy().tolist()
        counted = {"steps": self.steps_per_epoch, "accumulation": self.accumulation, "update": update, "epoch": epoch}
        return {name: Entry(value, Kind.COMMON) for name, value in counted.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: the same epoch, also where an epoch had another number of steps.

        Args:
            state: the values of the ``state_dict()`` of the schedule that was saved, and as ``"iterations"`` how many
                steps the optimizer has made.

        Example:

        >>> from hvdkit.schedules import WarmupThenDecay
        >>> schedule = LargeBatchSchedule(WarmupThenDecay(0.1, 0.4, warmup_epochs=2, decay="constant"), 10)
        >>> schedule.load_state_dict({"steps": 20.0, "accumulation": 1, "update": 0.0, "epoch": 0.0, "iterations": 30})
        >>> float(schedule.epoch(30))
        1.5
        """
        update, epoch = state["update"], state["epoch"]
        if (state["steps"], state["accumulation"]) != (self.steps_per_epoch, self.accumulation):
            updates = state["iterations"] // state["accumulation"] - update
            epoch += updates / (state["steps"] / state["accumulation"])
            update = state["iterations"] // self.accumulation
        self._origin.assign([update, epoch])

    def position(self) -> dict[str, float]:
        """The values of ``state_dict()``; deprecated."""
        warn_deprecated("LargeBatchSchedule.position", "LargeBatchSchedule.state_dict")
        return {name: entry.value for name, entry in self.state_dict().items()}

    def go_on(self, position: dict[str, float], step: int) -> None:
        """``load_state_dict``; deprecated."""
        warn_deprecated("LargeBatchSchedule.go_on", "LargeBatchSchedule.load_state_dict")
        self.load_state_dict({**position, "iterations": step})

    def get_config(self):
        recipe = {name: getattr(self.recipe, name) for name in self.recipe.__dataclass_fields__}
        decay = None if self.decay is None else keras.saving.serialize_keras_object(self.decay)
        return {
            "recipe": recipe,
            "steps_per_epoch": self.steps_per_epoch,
            "accumulation": self.accumulation,
            "decay": decay,
            "factor": self.factor,
            "origin": self._origin.numpy().tolist(),
        }

    @classmethod
    def from_config(cls, config):
        config, recipe = dict(config), dict(config["recipe"])
        for names in (config, recipe):  # models that were saved before have it by its old name
            if "after" in names:
                names["decay"] = names.pop("after")
        decay = config.get("decay")
        decay = None if decay is None else keras.saving.deserialize_keras_object(decay)
        return cls(**{**config, "recipe": WarmupThenDecay(**recipe), "decay": decay})
