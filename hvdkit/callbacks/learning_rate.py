"""Learning rates by epoch or by step: a schedule, and the gradual warm-up, which is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.schedules.learning_rate import check_settable, set_learning_rate
from hvdkit.utils.log import get_logger
from hvdkit.utils.numbers import plain, real, whole


class LearningRateScheduleCallback(keras.callbacks.Callback):
    """Set the learning rate to ``initial_lr * multiplier`` from ``start_epoch`` on, before ``end_epoch``.

    The rate is set before a step, to the same value on every rank without an exchange, and is in ``logs["lr"]`` at the
    end of each epoch. Outside its epochs the callback does not change the rate, so several callbacks with different
    epochs can form one schedule. With ``steps_per_execution`` above 1 the rate is set before the first of the steps
    that run together.

    Args:
        initial_lr: the rate that is multiplied: the optimizer's initial rate, usually ``rate * hvd.size()``.
        multiplier: a function of the epoch; or a number, which decays exponentially:
            ``multiplier ** (epoch - start_epoch)``. The epoch is an integer from 0 with ``staircase``, and otherwise
            ``epoch + batch / steps_per_epoch``.
        start_epoch: the first epoch, counted from 0.
        end_epoch: the epoch before which it ends; None for no end.
        staircase: set the rate once per epoch instead of before every step.
        momentum_correction: when the rate changes, permanently scale the velocity of SGD or RMSprop with momentum by
            new / old rate. With ``nesterov`` only the velocity is scaled and the look-ahead keeps its momentum, so the
            step equals that of a momentum whose velocity does not contain the rate. It takes one multiplication of
            each velocity per change, and has no effect without momentum or for other optimizers.
        steps_per_epoch: steps of one epoch, for ``staircase=False``; None takes the number from ``fit``.

    Raises:
        UsageError: ``initial_lr`` is None; or, at the start of training, the optimizer has its own schedule, or ``fit``
            does not know the number of steps per epoch.

    Paper: P. Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677, 2017;
    momentum correction is in section 3, "Remark 2".

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> step_down = hvd.callbacks.LearningRateScheduleCallback(0.4, lambda epoch: 0.1 ** (epoch // 30))
    >>> decay = hvd.callbacks.LearningRateScheduleCallback(0.4, 0.97, start_epoch=5, staircase=False)
    """

    def __init__(  # noqa: PLR0917  Horovod's arguments, in its order
        self,
        initial_lr: float,
        multiplier: float | Callable[[float], float],
        start_epoch: int = 0,
        end_epoch: int | None = None,
        staircase: bool = True,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
    ):
        super().__init__()
        if initial_lr is None:
            raise UsageError(
                "`initial_lr` is required. Received: initial_lr=None.",
                fix="pass the learning rate of the optimizer, usually multiplied by hvd.size().",
            )
        start_epoch = whole(start_epoch, "start_epoch")
        multiplier = multiplier if callable(multiplier) else real(multiplier, "multiplier")
        self.initial_lr = real(initial_lr, "initial_lr")
        self.multiplier = multiplier if callable(multiplier) else lambda epoch: multiplier ** (epoch - start_epoch)
        self.start_epoch = start_epoch
        self.end_epoch = None if end_epoch is None else whole(end_epoch, "end_epoch")
        self.staircase = staircase
        self.momentum_correction = momentum_correction
        self.steps_per_epoch = None if steps_per_epoch is None else whole(steps_per_epoch, "steps_per_epoch", 1)
        self.current_epoch = 0
        self._steps: Any = None

    def on_train_begin(self, logs=None):
        check_settable(self.model.optimizer)
        self._steps = self.steps_per_epoch or (self.params or {}).get("steps")
        if not self.staircase and not self._steps:
            raise UsageError(
                f"{type(self).__name__} changes the rate within an epoch, and `fit` does not know how many steps one "
                "has: the data does not say its length.",
                fix=f"pass {type(self).__name__}(..., steps_per_epoch=...).",
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.current_epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        epoch = self.current_epoch
        if epoch < self.start_epoch or (self.end_epoch is not None and epoch >= self.end_epoch):
            return
        if not self.staircase:
            self._set_rate_at(epoch + batch / self._steps)
        elif batch == 0:
            self._set_rate_at(epoch)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["lr"] = float(self.model.optimizer.learning_rate)

    def _set_rate_at(self, epoch: float) -> None:
        rate = float(self.initial_lr * self.multiplier(epoch))
        set_learning_rate(self.model.optimizer, rate, momentum_correction=self.momentum_correction)


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """Raise the learning rate step by step from ``initial_lr / hvd.size()`` to ``initial_lr``.

    A large global batch allows a large rate, but not from the first step. After ``warmup_epochs`` the rate is
    ``initial_lr``, also if several steps run together (``steps_per_execution``). In a single process it is
    ``initial_lr`` from the start.

    Args:
        initial_lr: the rate at the end of the warm-up, usually ``rate * hvd.size()``.
        warmup_epochs: the length of the warm-up in epochs, an integer; 0 for no warm-up.
        momentum_correction: as for ``LearningRateScheduleCallback``.
        steps_per_epoch: steps of one epoch; None takes the number from ``fit``.
        verbose: 1 logs on rank 0 when the warm-up is finished.

    Raises:
        UsageError: ``initial_lr`` is None, or ``warmup_epochs`` is not an integer; or, at the start of training, the
            optimizer has its own schedule, or ``fit`` does not know the number of steps per epoch.

    Paper: P. Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677, 2017,
    section 2.2.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> callbacks = [
    ...     hvd.callbacks.LearningRateWarmupCallback(0.1 * hvd.size(), warmup_epochs=5, verbose=1),
    ...     hvd.callbacks.LearningRateScheduleCallback(0.1 * hvd.size(), 0.97, start_epoch=5),
    ... ]
    """

    def __init__(
        self,
        initial_lr: float,
        warmup_epochs: int = 5,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
        verbose: int = 0,
    ):
        # A warm-up that ends within an epoch would continue to rise above initial_lr until the end of that epoch.
        epochs, given = plain(warmup_epochs), warmup_epochs
        warmup_epochs = -1 if epochs is None or epochs % 1 else int(epochs)
        if warmup_epochs < 0:
            raise UsageError(
                f"`warmup_epochs` must be a whole number of epochs, 0 or more. Received: warmup_epochs={given!r}."
            )
        super().__init__(
            initial_lr,
            self._warmup_factor,
            end_epoch=warmup_epochs,
            staircase=False,
            momentum_correction=momentum_correction,
            steps_per_epoch=steps_per_epoch,
        )
        self.warmup_epochs = warmup_epochs
        self.verbose = verbose

    def on_epoch_end(self, epoch, logs=None):
        last = epoch == self.end_epoch - 1
        if last and int(self.model.steps_per_execution) > 1:  # its last step had no rate of its own
            self._set_rate_at(epoch + (self._steps - 1) / self._steps)
        super().on_epoch_end(epoch, logs)
        if last and self.verbose > 0:  # rank 0 alone speaks there
            rate = float(self.model.optimizer.learning_rate)
            get_logger().info("Epoch %d: finished gradual learning rate warmup to %g.", epoch + 1, rate)

    def _warmup_factor(self, epoch: float) -> float:
        """From 1 / size to 1. One step is added, so that an epoch's last step has the round number."""
        epoch += 1.0 / self._steps
        return 1.0 / world.size() * (epoch * (world.size() - 1) / self.warmup_epochs + 1)
