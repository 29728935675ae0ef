"""The check that all ranks train one model: that gradients were reduced and the weights are still equal."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.comm import exchange, world
from hvdkit.comm.consistency import assert_equal_weights, assert_same_on_all_ranks, raise_on_any_rank
from hvdkit.comm.process_sets import ProcessSet
from hvdkit.data.current import current_data
from hvdkit.errors import CommunicationError, UsageError
from hvdkit.grads import tape_pipelines
from hvdkit.keras_internals.model_contents import optimizers_of, preprocessing_state, reduction_state_of
from hvdkit.optim.reduction_state import reduction_states
from hvdkit.schedules.learning_rate import check_steps
from hvdkit.utils.deprecation import renamed_arguments
from hvdkit.utils.numbers import whole


class ConsistencyCheck(keras.callbacks.Callback):
    """Check that the ranks train one model together. ``hvd.init()`` adds it to every ``fit`` on several ranks.

    Before the first step, it checks that all ranks make the same number of steps and epochs, and that their
    preprocessing layers were adapted to the same data. Before each epoch and at the end, it checks that either all
    ranks continue or all stop. After the first step, and then every ``every`` steps, it checks that every
    optimizer reduced its gradients as often as it stepped, and that the weights (including frozen weights) are bitwise
    equal on all ranks (sha256). It compares the weights once more when ``fit`` ends, after every callback's
    ``on_train_end``.

    Args:
        every: steps between two checks after the first; None checks at the end of each epoch. A check takes a
            hash of the weights (about 1 ms per million parameters) and two small exchanges.

    Raises:
        CommunicationError: on every rank; it names the optimizer, or the variable and the ranks.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> callbacks = [hvd.callbacks.ConsistencyCheck(every=500)]
    """

    @renamed_arguments(every_steps="every")
    def __init__(self, every: int | None = None):
        super().__init__()
        self.every = None if every is None else whole(every, "every", 1)
        self.initial_epoch = 0
        self._callbacks: list = []
        self._calls = 0
        self._unchecked = 0
        self._seen: dict[int, tuple[int, int]] = {}
        self._tape_reductions = 0
        self._process_set: ProcessSet | None = None

    def watch(self, callbacks: list, initial_epoch: int) -> None:
        """Hear of the ``fit`` that is about to begin: its callbacks, this one too, and its first epoch."""
        self.initial_epoch = initial_epoch
        self._callbacks = list(callbacks)

    def on_train_begin(self, logs=None):
        self._calls = self._unchecked = 0
        self._seen = {}
        self._process_set = _process_set_of(self.model)
        if self._trains_alone():
            return
        refuse = lambda: refuse_backups(self._callbacks)
        raise_on_any_rank("begin this training", refuse, by=type(self).__name__, process_set=self._process_set)
        parameters = self.params or {}  # None in a loop that drives its callbacks by hand
        if world.rank() == 0:
            data = current_data(self.model)  # the epoch that runs may be the rest of one
            check_steps(optimizers_of(self.model), len(data) if hasattr(data, "__len__") else parameters.get("steps"))
        self._assert_same(
            "how many steps and epochs they train",
            {
                "steps per epoch": parameters.get("steps"),
                "first epoch": self.initial_epoch,
                "epochs": parameters.get("epochs"),
            },
            fix="give every rank the same number of batches (a rank with fewer would leave the others waiting). A "
            "model that one rank trains alone belongs in `with hvd.local_training():`.",
        )
        self._assert_same(
            "what their preprocessing layers were adapted to",
            preprocessing_state(self.model),
            fix="adapt them to the same data on every rank, before it is shared out.",
        )

    def _trains_alone(self) -> bool:
        """Whether this rank trains by itself: in a single process, or outside its optimizer's process set."""
        return world.size() == 1 or (self._process_set is not None and not self._process_set.included())

    def _assert_same(self, what: str, value: Any, fix: str) -> None:
        assert_same_on_all_ranks(what, value, by=type(self).__name__, fix=fix, process_set=self._process_set)

    # Before a step and not after the one before it: Keras may call the hooks after a step from another thread.
    def on_train_batch_begin(self, batch, logs=None):
        if self._calls == 0:  # not earlier: another callback may have restored a checkpoint since training began
            self._seen = {id(o): _counts(o) for o in optimizers_of(self.model)}
            self._tape_reductions = tape_pipelines.reductions()
        first = self._calls == 1
        if first or (self.every and self._unchecked >= self.every):
            self._check()
        self._calls += 1
        self._unchecked += int(self.model.steps_per_execution)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch > self.initial_epoch:
            self._assert_all_continue(f"epoch {epoch + 1}")

    def on_train_end(self, logs=None):
        self._assert_all_continue("the end of training")

    def after_fit(self) -> None:
        """Compare the weights once more, when every callback has done what it does at the end of training."""
        if not self._trains_alone():
            self._compare("after the callbacks of the end of training")

    def _assert_all_continue(self, what: str) -> None:
        if self._trains_alone():
            return
        self._assert_same(
            "what comes next",
            what,
            fix="stop on every rank alike: put MetricAverageCallback before EarlyStopping, so that all see the same "
            "metrics.",
        )

    def on_epoch_end(self, epoch, logs=None):
        if self._calls == 1 or self.every is None:
            self._check()

    def _check(self) -> None:
        self._unchecked = 0
        if self._trains_alone():
            return
        tape_reductions = tape_pipelines.reductions()
        new_tape_reductions, self._tape_reductions = tape_reductions - self._tape_reductions, tape_reductions
        failures = [f for f in (self._failure(o, new_tape_reductions) for o in optimizers_of(self.model)) if f]
        failures_per_rank = exchange.allgather_object(
            failures, f"{type(self).__name__}: the count of reductions", self._process_set
        )
        ranks = range(world.size()) if self._process_set is None else self._process_set.ranks
        for rank, failures_of_rank in zip(ranks, failures_per_rank, strict=True):
            if failures_of_rank:
                raise CommunicationError(f"On rank {rank}, {failures_of_rank[0]}", fix=_FIX, rank=world.rank())
        self._compare()

    def _compare(self, when: str = "") -> None:
        if not any(state.steps_since_sync() for state in reduction_states(self.model)):
            assert_equal_weights(self.model, process_set=self._process_set, when=when)

    def _failure(self, optimizer: keras.optimizers.Optimizer, tape_reductions: int) -> str | None:
        """What is wrong with an optimizer, as the rest of a sentence that begins with the rank.

        ``tape_reductions`` counts the reductions since the last check that a ``DistributedGradientTape`` made for it.
        """
        steps_before, reductions_before = self._seen.get(id(optimizer), (0, 0))
        steps, reductions = _counts(optimizer)
        self._seen[id(optimizer)] = (steps, reductions)
        name = f"{type(optimizer).__name__} ({optimizer.name})"
        stepped = steps - steps_before
        if stepped <= 0:
            return None
        if reduction_state_of(optimizer) is None:
            if tape_reductions >= stepped:
                return None
            return f"{name} made {stepped} steps and is not distributed: {world.size()} ranks train different models."
        # A step that a LossScaleOptimizer skipped was reduced too, so there may be more reductions than steps. And
        # if the number of batches is unknown, TensorFlow counts one that fails for want of data.
        reduced = reductions - reductions_before
        wanted = reduction_state_of(optimizer).expected_reductions(steps_before, steps)
        if reduced < wanted - ((self.params or {}).get("steps") is None):
            return f"{name} made {stepped} steps, but reduced its gradients only {reduced} times."
        return None


def refuse_backups(callbacks: list) -> None:
    """Refuse Keras' ``BackupAndRestore``, which would let the rank that has it begin in another epoch than the others.

    Raises:
        UsageError: it is among the callbacks.
    """
    if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):
        raise UsageError(
            "keras.callbacks.BackupAndRestore cannot bring several ranks back: it sets the epoch and the weights of "
            "the rank it is on, and knows nothing of the others or of sharded data.",
            fix="hvd.callbacks.CheckpointCallback(directory) on every rank saves the training of all ranks, and goes "
            "on from it when the same command is started again.",
        )


_FIX = (
    "compile the model with hvd.DistributedOptimizer(optimizer); for a model that is meant to be trained on one rank "
    "alone, `with hvd.local_training(): model.fit(...)`."
)


def _process_set_of(model: keras.Model) -> ProcessSet | None:
    """The ranks that train this model together; None means all."""
    sets = [d.pipeline.process_set for d in map(reduction_state_of, optimizers_of(model)) if d]
    return sets[0] if sets else None


def _counts(optimizer: keras.optimizers.Optimizer) -> tuple[int, int]:
    """How many updates an optimizer has made, and how many reductions."""
    distribution = reduction_state_of(optimizer)
    # .numpy(), because under a strategy both are mirrored, which int() does not take.
    return int(optimizer.iterations.numpy()), int(distribution.pipeline.reductions.numpy()) if distribution else 0
