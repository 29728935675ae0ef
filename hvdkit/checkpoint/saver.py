"""Saving while training continues: a copy in memory first, the disk in a thread."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.checkpoint import state
from hvdkit.checkpoint.storage.lock import DirectoryLock
from hvdkit.checkpoint.storage.store import CheckpointWriteError, RetentionPolicy, Store
from hvdkit.comm import exchange, world
from hvdkit.comm.consistency import raise_on_any_rank
from hvdkit.keras_internals.model_contents import backend_variable
from hvdkit.utils.log import get_logger
from hvdkit.version import __version__

# From so many bytes on, the common part is split over the ranks.
_SHARED_BYTES = 64 * 2**20
# A manifest, which holds the model's configuration, is read at once.
_LARGEST_CONFIG = 4 * 2**20
# How long a rank's end waits for what is being written.
_LAST_SECONDS = 60.0


_savers: dict[Path, Saver] = {}  # of this process


class Saver:
    """Writes a run's checkpoints into a directory, which no other job can then write into; collective to make.

    Args:
        directory: on a file system that all ranks share.
        keep: which checkpoints stay.
        background: write in a thread; at most one checkpoint is on its way at a time.

    Attributes:
        seconds: how long the last checkpoint took, from the copy to the commit.

    Raises:
        CheckpointInUseError: another job writes there.
        CheckpointWriteError: the directory cannot be written.
    """

    def __init__(
        self, directory: str | os.PathLike, keep: RetentionPolicy | int | None = None, *, background: bool = True
    ):
        self.store = Store(directory)
        earlier = _savers.get(self.store.directory)  # of a fit that was left by an exception
        if earlier is not None:
            earlier.wait()
            earlier.release()
        self._lock = DirectoryLock(directory)
        self._keep, self._background = RetentionPolicy.parse(keep), background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self.seconds = 0.0
        self.run_id = str(exchange.broadcast_object(secrets.token_hex(6), name="a checkpoint's run"))
        take = self._take if world.rank() == 0 else lambda: None
        raise_on_any_rank("take the directory of checkpoints", take, by="checkpoints")
        self._last = -1
        self._config_text: str | None = None
        self._memory: state.Tensors = {}
        _savers[self.store.directory] = self
        atexit.register(self._at_exit)

    def _take(self) -> None:
        self._lock.acquire()
        self.store.clean(self.run_id)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way."""
        return self._thread is not None and self._thread.is_alive()

    def raise_background_error(self) -> None:
        """Raise what went wrong in the background, once."""
        if not self.busy and self._error is not None:
            error, self._error = self._error, None
            raise error

    def save(
        self,
        model: keras.Model,
        step: int,
        epoch: int,
        metadata: dict[str, Any],
        *,
        own: dict[int, np.ndarray] | None = None,
        callbacks: list | None = None,
    ) -> float:
        """Save a model's training; every rank calls it at the same step.

        Args:
            model: with its optimizer built.
            step: the training step, counted over all epochs; a step is saved once.
            epoch: the epoch to resume with.
            metadata: JSON-like data to keep beside the tensors, rank 0's.
            own: values to save in the place of those that variables have now, as ``state.own_weights`` returned them.
            callbacks: of this process, whose state is saved too.

        Returns:
            The seconds that training waited.
        """
        begin = time.perf_counter()
        self.wait()
        self.raise_background_error()
        if step == self._last:
            return time.perf_counter() - begin
        self._last = step
        training = state.TrainingState(model)
        if world.rank() == 0:
            training.warn_of_unreachable_optimizers()
            training.warn_of_earlier_protocols()
        names_by_rank = _split_by_size(training.common, world.size())
        parts = self._copy(training, names_by_rank, callbacks or [], own or {})
        common = ["common"] if len(names_by_rank) == 1 else [f"common-{rank:05d}" for rank in range(len(names_by_rank))]
        names = [*common, *(f"rank-{rank:05d}" for rank in range(world.size()))]
        metadata = {**metadata, "versions": _versions(), "model": self._config(model), "trained": training.trained}

        def write() -> None:
            try:
                self._write(step, epoch, parts, names, metadata)
            except CheckpointWriteError as error:  # training is worth more than a checkpoint
                get_logger().warning("%s Training continues.", error)
            except BaseException as error:  # noqa: BLE001  raised in the main thread, by raise_background_error()
                self._error = error
            self.seconds = time.perf_counter() - begin

        if self._background:
            self._thread = threading.Thread(
                target=_at_lowest_priority, args=(write,), daemon=True, name="hvdkit-checkpoint"
            )
            self._thread.start()
        else:
            write()
            self.raise_background_error()
        return time.perf_counter() - begin

    def _config(self, model: keras.Model) -> str | None:
        """How the model is made, as Keras writes it down; None if it cannot, as for a class without a config."""
        if self._config_text is None:
            try:
                text = model.to_json()
            except Exception as error:  # noqa: BLE001  whatever a user's get_config() does
                get_logger().debug("why checkpoints hold no model: %s", error)
                text = ""
            self._config_text = text if len(text) < _LARGEST_CONFIG else ""
        return self._config_text or None

    def _copy(
        self, training: state.TrainingState, names_by_rank: list[list[str]], callbacks: list, own: dict[int, np.ndarray]
    ) -> dict[str, state.Tensors]:
        """This rank's parts, in memory."""
        rank, common = world.rank(), training.common
        parts = {f"rank-{rank:05d}": training.tensors(rank, callbacks, own)}
        if len(names_by_rank) > 1:
            parts[f"common-{rank:05d}"] = self._copied({name: common[name] for name in names_by_rank[rank]}, own)
        elif rank == 0:
            parts["common"] = self._copied(common, own)
        return parts

    def _copied(self, variables: dict[str, Any], own: dict[int, np.ndarray]) -> state.Tensors:
        """Copies in memory that is used for every checkpoint: the first touch of new memory costs more than a copy."""
        for name, variable in variables.items():
            value = own.get(id(backend_variable(variable)), state.value_of(variable))
            known = self._memory.get(name)
            if known is None or (known.shape, known.dtype) != (value.shape, value.dtype):
                self._memory[name] = np.array(value)
            else:
                np.copyto(known, value)
        return {name: self._memory[name] for name in variables}

    def _write(
        self, step: int, epoch: int, parts: dict[str, state.Tensors], names: list[str], metadata: dict[str, Any]
    ) -> None:
        writer = self.store.writer(step, self.run_id)
        for name, tensors in parts.items():
            writer.write(name, tensors)
        if world.rank() == 0:
            writer.commit(names, epoch=epoch, world_size=world.size(), state=metadata, poll=self._poll)
            self._lock.touch()
            self.store.prune(self._keep, valid=step)

    def _poll(self) -> None:
        if self._stopped.wait(0.05):
            raise CheckpointWriteError("The checkpoint that was on its way was given up: this process ends.")

    def wait(self) -> None:
        """Wait for the checkpoint that is on its way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Wait for the checkpoint that is on its way, and give the directory back; raises what went wrong."""
        self.wait()
        self.release()
        self.raise_background_error()

    def release(self) -> None:
        """Give the directory back."""
        self._lock.release()
        atexit.unregister(self._at_exit)
        _savers.pop(self.store.directory, None)

    def _at_exit(self) -> None:
        """What is being written is finished; the parts of other ranks, which may be gone, are not waited for."""
        if self._thread is not None:
            self._thread.join(_LAST_SECONDS / 6)
            self._stopped.set()
            self._thread.join(_LAST_SECONDS)


def _at_lowest_priority(write: Callable[[], None]) -> None:
    """With the lowest priority, which on Linux each thread has for itself: training needs the cores."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    write()


def _bytes(variable: Any) -> int:
    return int(np.prod(variable.shape)) * tf.as_dtype(keras.backend.standardize_dtype(variable.dtype)).size


def _split_by_size(common: dict[str, Any], size: int) -> list[list[str]]:
    """The names of the common tensors that each rank writes; one list if rank 0 writes all."""
    total = sum(map(_bytes, common.values()))
    if total < _SHARED_BYTES or size == 1:
        return [list(common)]
    names_by_rank: list[list[str]] = [[] for _ in range(size)]
    load = [0] * size
    for name in sorted(common, key=lambda name: -_bytes(common[name])):
        rank = load.index(min(load))
        load[rank] += _bytes(common[name])
        names_by_rank[rank].append(name)
    return names_by_rank


def _versions() -> dict[str, str]:
    return {"hvdkit": __version__, "keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
