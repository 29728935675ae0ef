"""A single process: every collective is the identity. Needs neither Horovod nor an MPI."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdkit.comm.bitcast import scaled
from hvdkit.comm.engine import Engine, ReduceOp
from hvdkit.errors import UsageError


class SingleEngine(Engine):
    """The engine of a process without a launcher."""

    name = "single"
    supports_numpy = True
    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    cross_rank = 0
    cross_size = 1

    def __init__(self, process_sets: Any = ()):
        self._sets = 0
        for process_set in () if isinstance(process_sets, str) else process_sets:
            if process_set.ranks not in (None, [0]):
                raise UsageError(f"{process_set} has ranks that do not exist in a single process.")
            process_set.ranks, process_set.process_set_id = [0], self.add_process_set([0])

    def check_reduction(self, tensors: list, op: ReduceOp, names: list[str] | None) -> None:
        """Anything can stay what it is."""

    def reduce_tensor(
        self, tensor: Any, op: ReduceOp, name: str | None, scales: tuple[float, float], *, reusable: bool
    ) -> Any:
        return scaled(scaled(tensor, scales[0]), scales[1])

    def allgather(self, tensor: Any, name: str | None) -> Any:
        return tensor

    def broadcast(self, tensor: Any, root_rank: int, name: str | None) -> Any:
        return tensor

    def alltoall(self, tensor: Any, splits: Any, name: str | None) -> tuple[Any, Any]:
        rows = tensor.shape[0]
        if splits is not None and np.asarray(splits).tolist() != [rows]:
            raise UsageError(f"`splits` must be one number per rank that sum to the {rows} rows. Received: {splits}.")
        return tensor, np.array([rows], np.int32)

    def reducescatter(self, tensor: Any, op: ReduceOp, name: str | None) -> Any:
        return tensor

    def barrier(self) -> None:
        return None

    def subgroup(self, process_set_id: int, ranks: list[int]) -> SingleEngine:
        return self

    def grouped_allreduce(
        self, tensors: list, op: ReduceOp, names: list[str] | None, prescale: float = 1.0, postscale: float = 1.0
    ) -> list:
        return self.allreduce(tensors, op, names, prescale, postscale)

    def add_process_set(self, ranks: list[int]) -> int:
        self._sets += 1
        return self._sets

    def remove_process_set(self, process_set_id: int) -> bool:
        return True

    def start_timeline(self, file_path: str, mark_cycles: bool) -> None:
        return None

    def shutdown(self) -> None:
        return None
