"""Checkpoints while training, going on from them, and ending in order when told to."""

from __future__ import annotations

import inspect
import os
from typing import Any

import keras
import numpy as np

from hvdkit import training_data
from hvdkit.checkpoint.keep import Keep
from hvdkit.checkpoint.pace import Pace
from hvdkit.checkpoint.preemption import Preempted, Preemption, seconds_of
from hvdkit.checkpoint.restoring import Restored, restore
from hvdkit.checkpoint.saver import Saver
from hvdkit.comm import ops, world
from hvdkit.errors import UsageError
from hvdkit.keras_model import build_optimizer
from hvdkit.log import get_logger
from hvdkit.numbers import plain


class CheckpointCallback(keras.callbacks.Callback):
    """Save the training, go on from where it was saved, and end in order on SIGTERM, SIGUSR1 or when time is over.

    What is saved: weights, optimizer, seeds, metrics, how far the data are (of ``hvd.data.shard``), of every rank. A
    training that goes on from it on as many ranks is the same training, to the last bit. Put it after the callbacks
    that change anything at the end of an epoch. Without sharded data an epoch that was broken off begins anew.

    Told to end, the ranks agree on a step (they ask one another about once a second, but not during a validation),
    save, and exit with code 75, on which a batch system or ``hvdkit run --max-restarts`` starts the job again.

    Args:
        directory: where, on a file system that all ranks share. No other job can write there meanwhile.
        every: steps between two checkpoints; ``"epoch"``; or ``"auto"``: as often as costs 3 % of the time.
        keep: how many of the newest stay, or ``hvd.checkpoint.Keep(last=3, every=1000, best=1, monitor="val_loss")``.
        background: write in a thread, while training goes on. A disk that is full is one line in the log, and
            training goes on; another error is raised at the next step.
        resume: ``"auto"`` goes on from the newest valid checkpoint, if there is one; ``"never"`` begins
            anew, in a directory without any.
        max_time: end after so many seconds, or ``"3:50:00"``, since training began.
        with_callbacks: callbacks whose own numbers (the best value so far, how long they have waited) are saved too:
            ``[early_stopping]``.

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
        keep: int | Keep = 3,
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
        self.directory, self.every, self.resume = directory, every, resume
        self._keep = keep if isinstance(keep, Keep) else Keep(last=keep)
        self._background = background
        self._max_time = seconds_of(max_time)
        self._others = list(with_callbacks or ())
        for callback in self._others:
            if getattr(callback, "restore_best_weights", False):
                raise UsageError(
                    f"{type(callback).__name__}(restore_best_weights=True) keeps weights, and `with_callbacks` saves "
                    "numbers only.",
                    fix="leave restore_best_weights out, and keep the best checkpoint: "
                    'keep=hvd.checkpoint.Keep(last=3, best=1, monitor="val_loss").',
                )

    def on_train_begin(self, logs=None):
        build_optimizer(self.model)
        self._preemption = Preemption(self.model, self._max_time)
        self._preemption.watch()
        self._saver = Saver(self.directory, self._keep, background=self._background)
        self._pace = Pace()
        self._epoch, self._metrics = 0, {}
        self._before = self._steps = 0  # steps before the running epoch, and in it
        self._began = False  # whether the running epoch has made a step
        self._counted: list | None = None
        self._numbers: list = []
        if self.resume == "auto":
            self._go_on(restore(self.model, self.directory))
        elif steps := ops.broadcast_object(self._saver.store.steps()[:1]):
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
        facts, data = restored.facts, training_data.of(self.model)
        place = facts.get("place", {})
        if data is not None:
            data.seek(restored.epoch, place)
        if place.get("passed"):
            if data is None:
                get_logger().warning(
                    "Epoch %d was saved in its middle and begins anew: only data of hvd.data.shard find their place.",
                    restored.epoch + 1,
                )
            else:
                self._counted = [np.array(v.numpy()) for v in self.model.metrics_variables]
        self._numbers = facts.get("callbacks", [])
        self._give_numbers()
        self._before, self._epoch, self._metrics = restored.step, restored.epoch, facts.get("metrics", {})
        self.model._initial_epoch = self.params["epochs"] if facts.get("stopped") else restored.epoch
        if world.rank() == 0:
            where = f"step {restored.step}, epoch {restored.epoch + 1}, of {self.directory}"
            get_logger().info("Going on from %s.", where)
            if facts.get("stopped") or restored.epoch >= self.params["epochs"]:
                get_logger().info("That training is over: nothing is left to train.")

    def _give_numbers(self) -> None:
        for callback, numbers in zip(self._others, self._numbers, strict=False):
            vars(callback).update(numbers)

    def on_epoch_begin(self, epoch, logs=None):
        self._give_numbers()  # again, after the on_train_begin of callbacks that come behind this one
        self._numbers = []
        self._before, self._steps = self._before + self._steps, 0
        self._epoch, self._began = epoch, False
        if self._counted is not None:  # Keras has just reset them
            for variable, value in zip(self.model.metrics_variables, self._counted, strict=True):
                variable.assign(value)
            self._counted, self._began = None, True
        self._between()

    # Before a step and not after the one before it: Keras may call the hooks after a step from another thread.
    def on_train_batch_begin(self, batch, logs=None):
        if batch:
            self._steps, self._began = batch, True
            self._between()

    def on_train_batch_end(self, batch, logs=None):
        self._executed = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        data = training_data.of(self.model)
        steps = None if data is None else data.num_batches
        self._steps = self._executed if steps is None else min(self._executed, steps)
        self._metrics = {k: float(v) for k, v in (logs or {}).items() if np.ndim(v) == 0 and np.isfinite(v)}

    def _between(self) -> None:
        """Between two steps: save where it is time, end where a rank was told to."""
        self._saver.check()
        self._pace.step(self._before + self._steps, busy=self._saver.busy, took=self._saver.seconds)
        told = self._ask()
        if told or self._is_due():
            self._save()
        if told:
            self._end(told)

    def _ask(self, *, now: bool = False) -> str | None:
        """About once a second: was a rank told to end? The answer is the same on every rank."""
        if not now and world.size() > 1 and not self._pace.is_time_to_ask:
            return None
        everyones = ops.allgather_object({"why": self._preemption.why, "pace": self._pace.mine()})
        self._pace.agreed([rank["pace"] for rank in everyones])
        told = [(rank, answer["why"]) for rank, answer in enumerate(everyones) if answer["why"]]
        if not told:
            return None
        return told[0][1] if world.size() == 1 else f"{told[0][1]} on rank {told[0][0]}"

    def _is_due(self) -> bool:
        if self.every == "auto":
            return self._pace.is_due
        if self.every == "epoch":
            return not self._began and self._before > self._saved_step
        return (self._before + self._steps) // self.every > self._saved_step // self.every

    def _save(self, *, ended: bool = False) -> None:
        step = self._before + self._steps
        data = training_data.of(self.model)
        place = {"passed": self._steps} if data is None else data.place(self._steps)
        epoch = self._epoch
        if ended or not self._began or place.get("over"):
            epoch, place = epoch + (ended or self._began), {**place, "passed": 0}
        facts = {
            "place": place,
            "metrics": self._metrics,
            "callbacks": [_numbers(c) for c in self._others],
            "stopped": ended and bool(self.model.stop_training),
        }
        self._saved_step = step
        self._pace.saved(self._saver.save(self.model, step, epoch, facts))

    def _end(self, why: str) -> None:
        self._preemption.end()
        self._saver.close()
        ops.barrier()  # a launcher ends the others as soon as one rank is gone
        if world.rank() == 0:
            get_logger().info("Saved step %d and ending: %s. Exit code 75.", self._before + self._steps, why)
        raise Preempted(why)

    def on_train_end(self, logs=None):
        self._save(ended=True)
        self.model._initial_epoch = None
        told = self._ask(now=True)
        if told:  # what comes after the training is not made in what time is left; started again, it comes at once
            self._end(told)
        self._saver.close()
        self._preemption.stop()


def _numbers(callback: Any) -> dict[str, Any]:
    """What a callback has counted and compared: its numbers, as JSON can hold them, but not what it was made with.

    ``EarlyStopping`` turns the sign of its ``min_delta`` round when it begins, each time.
    """
    made_with = inspect.signature(type(callback).__init__).parameters
    found = {k: v for k, v in vars(callback).items() if isinstance(v, bool | int | float | np.number)}
    found = {k: v for k, v in found.items() if k not in made_with}
    found = {k: v.item() if isinstance(v, np.number) else v for k, v in found.items()}
    return {k: v for k, v in found.items() if abs(v) < 2**53}  # not NaN, and whole in JSON
