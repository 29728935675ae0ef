"""The reading of one epoch of batches whose sizes are unknown beforehand.

How many samples a step has over all ranks, and whether it is the last, is agreed on some steps ahead: every
``LOOK_AHEAD`` steps the ranks exchange the sizes of as many batches, which a thread has read meanwhile. That is one
small exchange in ``LOOK_AHEAD`` steps, and that many batches of memory, twice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hvdkit.comm import exchange, world
from hvdkit.data import kinds
from hvdkit.errors import CommunicationError, UsageError

LOOK_AHEAD = 16
SHARD = "hvd.data.shard"  # who exchanges, as messages name it


class Reading:
    """One epoch: a thread reads batches, the main thread agrees on their weights, TensorFlow takes them.

    Args:
        source: is told in the main thread that the epoch begins, at its first step, as by Keras: after the callbacks.
        batches: makes the iterator of the batches, when the epoch has begun.
        drop: leave out what fills no step of all ranks.
    """

    def __init__(self, source: Any, batches: Callable[[], Iterator], *, drop: bool):
        self._source, self._batches, self._drop = source, batches, drop
        self._read: deque = deque()  # read, and not agreed on
        self._weights: deque = deque()  # agreed on, and not taken; None at the end
        self._agreed = 0  # steps that are agreed on
        self._over = self._all_read = self._stopped = False
        self._length: int | None = None  # in batches, if every rank must have the same number
        self._error: BaseException | None = None
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._reader, daemon=True, name="hvdkit-data")
        try:
            self._length = self._source.begin_epoch()
        except Exception as error:  # noqa: BLE001  raised by the exchange, on every rank
            self._error, self._batches = error, lambda: iter(())
        self._thread.start()

    def is_over(self, steps: int) -> bool:
        """Whether so many steps are all, as far as has been agreed."""
        return self._over and steps >= self._agreed

    def _unshared(self) -> int:
        return len(self._read) - len(self._weights)

    def _reader(self) -> None:
        try:
            for batch in self._batches():
                with self._change:
                    self._change.wait_for(lambda: self._unshared() < 2 * LOOK_AHEAD or self._stopped)
                    if self._stopped:
                        return
                    if kinds.count_samples(batch):
                        self._read.append(batch)
                    self._change.notify_all()
        except BaseException as error:  # noqa: BLE001  raised in the main thread, on every rank
            self._error = error
        finally:
            with self._change:
                self._all_read = True
                self._change.notify_all()

    def agree_until(self, step: int) -> None:
        if self._thread is None:
            self._begin()
        while not self._over and self._agreed < step:
            with self._change:
                self._change.wait_for(lambda: self._unshared() >= LOOK_AHEAD or self._all_read)
                ahead = len(self._weights)
                own_counts = [kinds.count_samples(b) for b in list(self._read)[ahead : ahead + LOOK_AHEAD]]
            self._exchange(own_counts)

    def _exchange(self, own_counts: list[int]) -> None:
        error = None if self._error is None else str(self._error) or repr(self._error)
        per_rank = exchange.allgather_object(
            {"samples": own_counts, "error": error, "length": self._length}, f"{SHARD}: the sizes of the next batches"
        )
        for rank, state in enumerate(per_rank):
            if state["error"]:
                self.stop()
                if self._error is not None:
                    raise self._error
                raise UsageError(f"Rank {rank} could not read its data: {state['error']}", rank=world.rank())
        batches = [state["length"] for state in per_rank]
        if len(set(batches)) > 1:
            self.stop()
            raise CommunicationError(
                f"The ranks have different numbers of batches in this epoch: {', '.join(map(str, batches))}, by rank.",
                fix="let on_epoch_begin do the same on every rank: from a seed that all have, and the epoch.",
                rank=world.rank(),
            )
        lengths = [len(state["samples"]) for state in per_rank]
        steps = min(lengths) if self._drop else max(lengths)
        counts = np.array([[*state["samples"], *[0] * LOOK_AHEAD][:steps] for state in per_rank], float)
        with self._change:
            for i in range(steps):
                own = counts[world.rank(), i]
                self._weights.append(own * len(per_rank) / counts[:, i].sum())
            self._agreed += steps
            if steps < LOOK_AHEAD:
                self._over = True
                self._weights.append(None)
            self._change.notify_all()

    def weighted_batches(self, spec: Any) -> Iterator[tuple[Any, float]]:
        """This rank's batches and their weights; with weight 0, something of the right shape."""
        last = None
        while True:
            with self._change:
                self._change.wait_for(lambda: self._weights or self._stopped)
                if self._stopped:
                    return
                weight = self._weights.popleft()
                if weight is None:
                    return
                if weight:
                    last = self._read.popleft()
                self._change.notify_all()
            if weight:
                yield last, weight
            else:
                yield kinds.stand_in(spec, last), 0.0

    def stop(self) -> None:
        with self._change:
            self._stopped = True
            self._change.notify_all()

    def finish(self) -> None:
        """End the reading and wait for its end: the data may be changed then."""
        self.stop()
        if self._thread is not None:
            self._thread.join()
