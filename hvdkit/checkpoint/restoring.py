"""Resuming from a checkpoint, on the same or a different number of ranks."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from hvdkit.checkpoint import callback_state, state, state_schema
from hvdkit.checkpoint.object_state import SavedObjects
from hvdkit.checkpoint.storage.store import Checkpoint, Store
from hvdkit.comm import exchange, world
from hvdkit.comm.consistency import raise_on_any_rank
from hvdkit.comm.variables import broadcast_variables
from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import build_optimizer, refresh_normalization
from hvdkit.utils.deprecation import warn_deprecated
from hvdkit.utils.log import get_logger
from hvdkit.utils.numbers import whole
from hvdkit.utils.stateful import Kind, combine

# What becomes of tensors on another number of ranks, by the beginnings of their names; of others each rank has its own.
_KINDS = {"mean": Kind.MEAN, "apart": Kind.MEAN, "sum": Kind.SUM}


@dataclass(frozen=True)
class Restored:
    """The position of a training after ``restore``.

    Attributes:
        step: how many steps it has made, over all epochs.
        epoch: the epoch to resume with, 0 first.
        metadata: what was saved beside the tensors.
        callbacks: what this rank's callbacks kept, or, where it is a new one, rank 0's.
    """

    step: int
    epoch: int
    metadata: dict[str, Any]
    callbacks: SavedObjects = field(repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """``metadata``; deprecated."""
        warn_deprecated("Restored.facts", "Restored.metadata")
        return self.metadata


def restore(model: keras.Model, directory: str | os.PathLike, step: int | None = None) -> Restored | None:
    """Restore the state of a model, its optimizer and the random numbers; collective.

    Rank 0 chooses the newest checkpoint that is valid in every byte (it logs why it skips damaged checkpoints), and
    broadcasts the common state. Each rank reads its own part. If the number of ranks has changed, accumulated
    gradients and counts are redistributed.

    Args:
        model: a model that is built and compiled as it was when it was saved.
        directory: the directory of the checkpoints; all ranks must see it.
        step: the step to restore; None is the newest valid one.

    Returns:
        The position of the training, or None if there is no checkpoint.

    Raises:
        DamagedCheckpointError: the checkpoint of ``step`` is damaged.
        UsageError: the model is not built, or differs from the saved model; the message names the variable.

    Example:

    >>> import tempfile, hvdkit as hvd
    >>> hvd.init()
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    >>> directory = tempfile.mkdtemp()
    >>> hvd.checkpoint.save(model, directory, step=7)
    >>> hvd.checkpoint.restore(model, directory).step
    7
    """
    step = None if step is None else whole(step, "step", 0)
    store = Store(directory)
    chosen = raise_on_any_rank(
        "read the checkpoint", lambda: _choose_checkpoint(store, step) if world.rank() == 0 else None, by="checkpoints"
    )
    number = exchange.broadcast_object(None if chosen is None else chosen.manifest.step, name="checkpoints: the step")
    if number is None:
        return None
    if not model.weights:
        raise UsageError(
            f"{model.name} is not built, so it has no weights to restore.",
            fix="begin it with keras.Input(shape), or call it once: model(x[:1]).",
        )
    build_optimizer(model)
    checkpoint = raise_on_any_rank(
        "see the checkpoint that rank 0 sees", lambda: chosen or store.open(int(number)), by="checkpoints"
    )
    state.build_optimizers(model, checkpoint.manifest.state.get("trained", []))
    where = str(checkpoint.path)
    training = raise_on_any_rank("restore", lambda: state.TrainingState(model), by="checkpoints")
    attached = raise_on_any_rank("restore", lambda: _restore_own(training, checkpoint), by="checkpoints")
    _restore_common(training, checkpoint)
    manifest = checkpoint.manifest
    raise_on_any_rank("restore", lambda: training.load(attached, manifest.state, where), by="checkpoints")
    refresh_normalization(model)
    callbacks = raise_on_any_rank("restore", lambda: _objects(callback_state.GROUP, checkpoint), by="checkpoints")
    return Restored(manifest.step, manifest.epoch, dict(manifest.state), callbacks)


def _choose_checkpoint(store: Store, step: int | None) -> Checkpoint | None:
    if step is not None:
        return state_schema.check_state(store.verify(step))
    say = lambda number, error: get_logger().warning("The checkpoint of step %d is skipped: %s", number, error)
    chosen = store.newest_valid(skipped=say, check=state_schema.check_state)
    if chosen is None and store.steps():
        get_logger().warning(
            "None of the %d checkpoints in %s can be restored: the training starts from the beginning.",
            len(store.steps()), store.directory,
        )  # fmt: skip
    return chosen


def _restore_common(training: state.TrainingState, checkpoint: Checkpoint) -> None:
    variables = training.common

    def read() -> None:
        homes = {n: part for part in checkpoint.manifest.parts if part.startswith("common") for n in names(part)}
        state.assign(variables, lambda n: checkpoint.get(homes[n], n), list(homes), str(checkpoint.path))

    names = checkpoint.names
    raise_on_any_rank("restore", read if world.rank() == 0 else lambda: None, by="checkpoints")
    broadcast_variables(list(variables.values()), 0)


def _restore_own(training: state.TrainingState, checkpoint: Checkpoint) -> SavedObjects:
    """Give this rank its own; what belongs to the optimizers comes back, to be given when they have theirs."""
    rank, then = world.rank(), checkpoint.manifest.world_size
    ranks = [f"rank-{r:05d}" for r in range(then)]
    home = ranks[rank] if rank < then else ranks[0]
    stored = checkpoint.names(home)

    def read(name: str) -> np.ndarray:
        kind = _KINDS.get(name.partition("/")[0], Kind.PER_RANK)
        if then == world.size() or kind == Kind.PER_RANK:
            return checkpoint.get(home, name)
        return combine(kind, [checkpoint.get(part, name) for part in ranks], rank, name)

    attached = _objects(state.ATTACHED, checkpoint)
    own = [n for n in stored if not n.startswith(state.OTHERS)]
    variables = training.per_rank if attached.count else training.per_rank_earlier()
    sums = lambda names: [n for n in names if n.startswith("sum/")]
    if len(sums(own)) != len(sums(variables)):  # metrics are made in the first step; their epoch begins anew then
        own = [n for n in own if n not in sums(own)]
        variables = {n: v for n, v in variables.items() if n not in sums(variables)}
    state.assign(variables, read, own, str(checkpoint.path))
    for name, thing in state.OF_PROCESS.items():
        thing.load_state_dict(
            {n.partition("/")[2]: checkpoint.get(home, n) for n in stored if n.startswith(f"{name}/")}
        )
    return attached


def _objects(group: str, checkpoint: Checkpoint) -> SavedObjects:
    """A group of tensors, as this rank gets it."""
    ranks = [f"rank-{rank:05d}" for rank in range(checkpoint.manifest.world_size)]
    return SavedObjects(group, [_Group(checkpoint, part, group) for part in ranks], world.rank(), world.size())


class _Group(Mapping):
    """The tensors of a group in a part of a checkpoint, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint, part: str, group: str):
        self._get = functools.partial(checkpoint.get, part)
        self._names = [name for name in checkpoint.names(part) if name.startswith(f"{group}/")]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
