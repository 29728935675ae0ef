"""Checkpoints while training, resuming from them, and an orderly end on a signal."""

from __future__ import annotations

import os

import keras
import numpy as np

from hvdkit.checkpoint.auto_save import AutoSaveInterval
from hvdkit.checkpoint.callback_state import restore_states, stateful_callbacks
from hvdkit.checkpoint.preemption import Preempted, Preemption
from hvdkit.checkpoint.restoring import Restored, restore
from hvdkit.checkpoint.saver import Saver
from hvdkit.checkpoint.state import own_weights
from hvdkit.checkpoint.state_schema import of_callback
from hvdkit.checkpoint.storage.retention import RetentionPolicy
from hvdkit.checkpoint.storage.store import absolute
from hvdkit.comm import exchange, ops, world
from hvdkit.comm.consistency import raise_on_any_rank
from hvdkit.data.current import current_data
from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import build_optimizer, optimizers_of, unwrap
from hvdkit.keras_internals.models import set_initial_epoch
from hvdkit.schedules.learning_rate import rates_of, set_rates
from hvdkit.utils.log import get_logger
from hvdkit.utils.numbers import plain, seconds_of


class CheckpointCallback(keras.callbacks.Callback):
    """Save the training, resume it from where it was saved, and end in order on SIGTERM, SIGUSR1 or when time is over.

    What is saved: weights, optimizer, seeds, metrics, how far the data are (of ``hvd.data.shard``), of every rank. A
    training that resumes from it on as many ranks is the same training, to the last bit. Where it stands among the
    callbacks makes no difference: it saves when all have begun the next epoch, and before they end the training. What
    it saves are the training's own weights, not the averages that ``SwapEMAWeights`` puts in their place for a time.
    Without sharded data an epoch that was broken off begins anew. The ``on_epoch_begin`` of an epoch that is resumed
    is called once more.

    Told to end, the ranks agree on a step (they ask one another about once a second, but not during a validation),
    save, and exit with code 75, on which a batch system or ``hvdkit run --max-restarts`` starts the job again.

    Args:
        directory: the directory, on a file system that all ranks share. No other job can write there at the same time.
        every: steps between two checkpoints; ``"epoch"``; or ``"auto"``, which keeps the overhead below 3 %.
        keep: how many of the newest checkpoints to keep, or
            ``hvd.checkpoint.RetentionPolicy(last=3, every=1000, best=1, monitor="val_loss")``.
        background: write in a thread, while training continues. A disk that is full is one line in the log, and
            training continues; another error is raised at the next step.
        resume: ``"auto"`` resumes from the newest valid checkpoint, if there is one; ``"never"`` begins
            anew, in a directory without any.
        max_time: end after so many seconds, or ``"3:50:00"``, since training began.
        with_callbacks: the callbacks whose own state (the best value so far, the best weights, how long they have
            waited) is saved too, each rank's. None means all that have any: Keras' ``EarlyStopping``,
            ``ReduceLROnPlateau``, ``ModelCheckpoint`` and ``SwapEMAWeights``, those that are
            ``hvd.checkpoint.Stateful``, and those of classes of your own: of these what attributes can be saved.

    Raises:
        CheckpointInUseError: when training begins: another job writes there.
        Preempted: at the step on which it ends; a ``SystemExit``.

    Example:

    >>> import tempfile, hvdkit as hvd
    >>> hvd.init()
    >>> saving = hvd.callbacks.CheckpointCallback(tempfile.mkdtemp(), every=500, keep=2)
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every: int | str = "auto",
        *,
        keep: int | RetentionPolicy = 3,
        background: bool = True,
        resume: str = "auto",
        max_time: float | str | None = None,
        with_callbacks: list | None = None,
    ):
        super().__init__()
        every = every if isinstance(every, str) else plain(every)
        if every not in ("auto", "epoch") and not (isinstance(every, int) and every >= 1):
            raise UsageError(f'`every` must be steps, "epoch" or "auto". Received: every={every!r}.')
        if resume not in ("auto", "never"):
            raise UsageError(f'`resume` must be "auto" or "never". Received: resume={resume!r}.')
        if not isinstance(background, bool):
            raise UsageError(f"`background` must be True or False. Received: background={background!r}.")
        if not isinstance(with_callbacks, list | tuple | None):
            raise UsageError(f"`with_callbacks` must be a list of callbacks. Received: {with_callbacks!r}.")
        absolute(directory)
        self.directory, self.every, self.resume = directory, every, resume
        self._keep, self._background, self._max_time = RetentionPolicy.parse(keep), background, seconds_of(max_time)
        self._with_callbacks = None if with_callbacks is None else list(with_callbacks)
        self._others: list = self._with_callbacks or []  # whose state is saved, of the fit that runs
        self._led = False

    def leader(self, callbacks: list) -> keras.callbacks.Callback:
        """What does this callback's work before all others of a ``fit`` do theirs, wherever this one stands."""
        if self._with_callbacks is None:
            self._others = stateful_callbacks(callbacks)
        self._led = True
        return _Leader(self)

    def on_train_begin(self, logs=None):
        build_optimizer(self.model)
        self._preemption = Preemption(self.model, self._max_time)
        self._preemption.watch()
        self._saver = Saver(self.directory, self._keep, background=self._background)
        self._interval = AutoSaveInterval()
        self._epoch, self._metrics = 0, {}
        self._before = self._steps = 0  # steps before the running epoch, and in it
        self._began = False  # whether the running epoch has made a step
        self._counted: list | None = None
        self._given: Restored | None = None  # what was restored, until its first step
        # The learning rates before and after the callbacks have begun the running epoch, which may multiply them.
        self._rates: list = []
        self._rates_after: list = []
        self._own: dict[int, np.ndarray] = {}  # weights before callbacks, or Keras at the end, put averages there
        self._logs: dict = {}
        if self.resume == "auto":
            self._go_on(restore(self.model, self.directory))
        elif steps := exchange.broadcast_object(
            self._saver.store.steps()[:1], name="CheckpointCallback: the newest step"
        ):
            self._saver.close()
            raise UsageError(
                f"{self.directory} has checkpoints already, the newest of step {steps[0]}: "
                'resume="never" would mix two trainings.',
                fix="another directory for each training, or remove what is there.",
            )
        self._saved_step = self._before

    def _go_on(self, restored: Restored | None) -> None:
        if restored is None:
            return
        metadata, data = of_callback(restored.metadata), current_data(self.model)
        place = metadata.get("place", {})
        if data is not None:
            data.seek(restored.epoch, place)
        if place.get("passed"):
            if data is None:
                get_logger().warning(
                    "Epoch %d was saved in its middle and starts again: only data of hvd.data.shard can resume there.",
                    restored.epoch + 1,
                )
            else:
                self._counted = [np.array(v.numpy()) for v in self.model.metrics_variables]
        self._given = restored
        self._give_state()
        set_rates(self.model, metadata.get("rates", {}).get("before", []))
        self._before, self._epoch, self._metrics = restored.step, restored.epoch, metadata.get("metrics", {})
        set_initial_epoch(self.model, self.params["epochs"] if metadata.get("stopped") else restored.epoch)
        if world.rank() == 0:
            where = f"step {restored.step}, epoch {restored.epoch + 1}, of {self.directory}"
            get_logger().info("Going on from %s.", where)
            if metadata.get("stopped") or restored.epoch >= self.params["epochs"]:
                get_logger().info("That training is over: nothing is left to train.")

    def _give_state(self) -> None:
        """To the other callbacks. Again before their first epoch, and their first step: some begin anew in between."""
        give = lambda: restore_states(self._others, self._given.callbacks)
        raise_on_any_rank("give its callbacks their state", give, by="CheckpointCallback")

    def on_epoch_begin(self, epoch, logs=None):
        if not self._led:
            self.begin_epoch(epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Before other callbacks begin the epoch."""
        if self._given is not None:
            self._give_state()
        self._rates = rates_of(self.model)
        self._before, self._steps = self._before + self._steps, 0
        self._epoch, self._began = epoch, False
        if self._counted is not None:  # Keras has just reset them
            for variable, value in zip(self.model.metrics_variables, self._counted, strict=True):
                variable.assign(value)
            self._counted, self._began = None, True

    # Before a step and not after the one before it: Keras may call the hooks after a step from another thread.
    def on_train_batch_begin(self, batch, logs=None):
        if not self._led:
            self.before_step(batch)

    def before_step(self, batch: int) -> None:
        """Before other callbacks begin the step, and after all of them have begun the epoch."""
        if batch:
            self._steps, self._began = batch, True
        else:
            self._rates_after = rates_of(self.model)
        if self._given is not None:
            self._give_state()
            rates = of_callback(self._given.metadata).get("rates", {})
            if rates and self._rates_after == rates["after"]:  # else a callback has another schedule now
                set_rates(self.model, rates["now"])
            self._given = None
        self._own = {}
        self._between()

    def on_train_batch_end(self, batch, logs=None):
        self._executed = batch + 1

    def before_end_of_epoch(self) -> None:
        """Before callbacks such as ``SwapEMAWeights``, or Keras at the end of training, put averages in the weights."""
        if any(getattr(unwrap(o), "use_ema", False) for o in optimizers_of(self.model)):
            self._own = own_weights(self.model)

    def on_epoch_end(self, epoch, logs=None):
        data = current_data(self.model)
        steps = None if data is None else data.num_batches
        self._steps = self._executed if steps is None else min(self._executed, steps)
        self._logs = logs or {}  # callbacks behind this one may still change them

    def _between(self) -> None:
        """Between two steps: save where it is time, end where a rank was told to."""
        self._saver.raise_background_error()
        self._interval.step(self._before + self._steps, busy=self._saver.busy, took=self._saver.seconds)
        told = self._ask()
        if told or self._is_due():
            self._save()
        if told:
            self._end(told)

    def _ask(self, *, now: bool = False) -> str | None:
        """About once a second: was a rank told to end? The answer is the same on every rank."""
        if not now and world.size() > 1 and not self._interval.should_exchange:
            return None
        answers = exchange.allgather_object(
            {"why": self._preemption.why, "interval": self._interval.measured()}, "CheckpointCallback: whether to end"
        )
        self._interval.update([answer["interval"] for answer in answers])
        told = [(rank, answer["why"]) for rank, answer in enumerate(answers) if answer["why"]]
        if not told:
            return None
        return told[0][1] if world.size() == 1 else f"{told[0][1]} on rank {told[0][0]}"

    def _is_due(self) -> bool:
        if self.every == "auto":
            return self._interval.is_due
        if self.every == "epoch":
            return not self._began and self._before > self._saved_step
        return (self._before + self._steps) // self.every > self._saved_step // self.every

    def _save(self, *, ended: bool = False) -> None:
        step = self._before + self._steps
        data = current_data(self.model)
        place = {"passed": self._steps} if data is None else data.place(self._steps)
        epoch = self._epoch
        rates = {"before": self._rates, "after": self._rates_after, "now": rates_of(self.model)}
        if ended or not self._began or place.get("over"):
            epoch, place = epoch + (ended or self._began), {**place, "passed": 0}
            rates = {} if ended or self._began else rates
        if self._logs:
            numbers = {k: float(v) for k, v in self._logs.items() if np.ndim(v) == 0}
            self._metrics, self._logs = {k: v for k, v in numbers.items() if np.isfinite(v)}, {}
        metadata = {
            "place": place,
            "metrics": self._metrics,
            "rates": rates,
            "stopped": ended and bool(self.model.stop_training),
        }
        self._saved_step = step
        self._interval.saved(self._saver.save(self.model, step, epoch, metadata, own=self._own, callbacks=self._others))

    def _end(self, why: str) -> None:
        self._preemption.end()
        self._saver.close()
        ops.barrier()  # a launcher ends the others as soon as one rank is gone
        if world.rank() == 0:
            get_logger().info("Saved step %d and ending: %s. Exit code 75.", self._before + self._steps, why)
        raise Preempted(why)

    def on_train_end(self, logs=None):
        if not self._led:
            self.finish()
        self._led = False

    def finish(self) -> None:
        """Save what was trained, before other callbacks do what they do at the end of training."""
        self._save(ended=True)
        set_initial_epoch(self.model, None)
        told = self._ask(now=True)
        if told:  # what comes after the training is not made in what time is left; started again, it comes at once
            self._end(told)
        self._saver.close()
        self._preemption.stop()


class _Leader(keras.callbacks.Callback):
    """First of all callbacks in ``fit``: what ``CheckpointCallback`` does before the others."""

    def __init__(self, saving: CheckpointCallback):
        super().__init__()
        self._saving = saving

    def on_epoch_begin(self, epoch, logs=None):
        self._saving.begin_epoch(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self._saving.before_step(batch)

    def on_epoch_end(self, epoch, logs=None):
        self._saving.before_end_of_epoch()

    def on_train_end(self, logs=None):
        self._saving.finish()
