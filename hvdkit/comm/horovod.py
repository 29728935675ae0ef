"""Horovod moves the bytes: over Gloo, MPI or NCCL. The only file that imports horovod."""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import math
import re
from collections.abc import Callable
from typing import Any

from hvdkit.comm import bitcast
from hvdkit.comm.engine import Engine, ReduceOp
from hvdkit.comm.gradients import gradient_at_root, gradient_of_own_rows, gradient_of_scattered
from hvdkit.comm.mean import sum_of_divided
from hvdkit.comm.values import own_rows
from hvdkit.errors import HorovodMissingError, UsageError
from hvdkit.horovod_build import stamp
from hvdkit.launch.identity import launch_info
from hvdkit.utils import env, uncaught
from hvdkit.utils.training_start import rank_leaves

# Makes `import horovod` import the library: while hvdkit.compat runs, its shims answer to that name otherwise.
real_horovod_modules: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


@functools.cache
def load_horovod() -> Any:
    """Horovod's TensorFlow module, the same one at every call, also if a shim has its name.

    Raises:
        HorovodMissingError: it is not installed, does not load, or was built for another TensorFlow.
    """
    rank = launch_info().rank
    misfit = stamp.compatibility_problem()
    if misfit:  # reported before it is loaded: a build for another TensorFlow may also crash
        raise HorovodMissingError(misfit, fix="hvdkit install-horovod", rank=rank)
    try:
        with real_horovod_modules():
            import horovod.tensorflow as hvd
    except Exception as error:
        raise _explain(error, rank) from error
    return hvd


def _explain(error: Exception, rank: int) -> HorovodMissingError:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("horovod"):
        return HorovodMissingError(
            "Several ranks were launched, but Horovod is not installed in this Python.",
            fix="hvdkit install-horovod",
            rank=rank,
        )
    return HorovodMissingError(
        f"Horovod is installed but does not load: {_first_line(error)}",
        fix="`hvdkit doctor` says why; `hvdkit install-horovod --force` builds it again.",
        rank=rank,
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


# What tells NCCL, or Horovod around it, which algorithm to take.
_ALGORITHMS = {
    "ring": {"NCCL_ALGO": "Ring"},
    "tree": {"NCCL_ALGO": "Tree"},
    "hierarchical": {"HOROVOD_HIERARCHICAL_ALLREDUCE": "1"},
}


class HorovodEngine(Engine):
    """The world that horovodrun, mpirun or srun started.

    Args:
        deadline: seconds a rank waits for the others in one collective before the job is ended, naming who is
            missing; 0 waits for ever. Horovod warns after a tenth of it.
        comm: an ``mpi4py`` communicator or a list of ranks to be the world instead of all that were launched.
        process_sets: the ``ProcessSet`` to register, or ``"dynamic"``.
        algorithm: one of ``_ALGORITHMS``; ``"auto"`` leaves the choice to NCCL, MPI or Gloo.
    """

    name = "horovod"
    # Horovod copies tensors into a buffer of its own: a second copy of more than this costs more than it saves.
    alone_from = 2**16

    def __init__(self, deadline: float = 600.0, comm: Any = None, process_sets: Any = None, algorithm: str = "auto"):
        env.set_default("HOROVOD_STALL_CHECK_TIME_SECONDS", str(math.ceil(deadline / 10) or 60))
        env.set_default("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(math.ceil(deadline)))
        self._hvd = hvd = load_horovod()
        dynamic = isinstance(process_sets, str)
        native = process_sets if dynamic else [hvd.ProcessSet(s.mpi_comm or s.ranks) for s in process_sets or ()]
        for name, value in _ALGORITHMS.get(algorithm, {}).items() if hvd.nccl_built() else ():
            env.set_default(name, value)
        hvd.init(comm, native)
        if not (algorithm == "auto" or hvd.nccl_built() or (algorithm == "ring" and hvd.gloo_enabled())):
            hvd.shutdown()
            raise UsageError(
                f"This Horovod has no all-reduce algorithm {algorithm!r}: it was built without NCCL, over Gloo it has "
                "'ring' alone, and over MPI the choice is MPI's.",
                fix="leave the algorithm away, or choose the engine 'mpi'.",
            )
        for process_set, native_set in () if dynamic else zip(process_sets or (), native, strict=True):
            process_set.process_set_id, process_set.ranks = native_set.process_set_id, native_set.ranks
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        self.cross_rank, self.cross_size = hvd.cross_rank(), hvd.cross_size()
        self._ops = {op: getattr(hvd, op.name.title()) for op in ReduceOp}
        self._set = hvd.global_process_set
        uncaught.watch()
        atexit.register(_leave)  # before Horovod's own end, at which the others begin to fail

    def reduce_tensor(
        self, tensor: Any, op: ReduceOp, name: str | None, scales: tuple[float, float], *, reusable: bool
    ) -> Any:
        wire_op, divisor = sum_of_divided(op, tensor.dtype.name, self.size)
        return self._hvd.mpi_ops._allreduce(
            tensor,
            name=name and _op_name(name),
            op=self._ops[wire_op],
            prescale_factor=scales[0] / divisor,
            postscale_factor=scales[1],
            # Ranks recognise a collective by its name. The scope in front of it counts how many functions a process
            # has traced, which may differ between ranks; the name alone is the same everywhere.
            ignore_name_scope=bool(name),
            process_set=self._set,
        )

    def grouped_allreduce(
        self, tensors: list, op: ReduceOp, names: list[str] | None, prescale: float = 1.0, postscale: float = 1.0
    ) -> list:
        """One grouped operation per dtype, as Horovod's takes one dtype only."""
        self.check_reduction(tensors, op, names)
        reduced: dict[int, Any] = {}
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            group = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
            wire_op, divisor = sum_of_divided(op, dtype.name, self.size)
            received = self._hvd.mpi_ops._grouped_allreduce(
                [tensors[i] for i in group],
                name=f"{_op_name(names[group[0]])}.group" if names else None,
                op=self._ops[wire_op],
                prescale_factor=prescale / divisor,
                postscale_factor=postscale,
                ignore_name_scope=bool(names),
                process_set=self._set,
            )
            reduced |= dict(zip(group, received, strict=True))
        return [reduced[i] for i in range(len(tensors))]

    def check_reduction(self, tensors: list, op: ReduceOp, names: list[str] | None) -> None:
        super().check_reduction(tensors, op, names)
        # What Horovod's Adasum cannot do, it says from its background thread, or not at all.
        if op is ReduceOp.ADASUM and not (self._hvd.mpi_enabled() or self._hvd.nccl_built()):
            raise UsageError(
                "Horovod has Adasum over MPI only, and this world talks over Gloo.",
                fix="launch with mpirun (`hvdkit install-horovod --with mpi`), or op=hvd.Average.",
            )

    def subgroup(self, process_set_id: int, ranks: list[int]) -> HorovodEngine:
        part = copy.copy(self)
        part.rank, part.size = ranks.index(self.rank), len(ranks)
        part._set, part.is_subgroup = self._native(process_set_id, ranks), True
        return part

    def add_process_set(self, ranks: list[int]) -> int:
        try:
            return self._hvd.add_process_set(ranks).process_set_id
        except ValueError as error:
            text = str(error)
            fix = 'hvd.init(process_sets="dynamic").' if "DYNAMIC" in text else "use the existing one."
            raise UsageError(f"The process set {ranks} cannot be created: {text}", fix=fix) from error

    def remove_process_set(self, process_set_id: int) -> bool:
        return bool(self._hvd.remove_process_set(self._native(process_set_id, [self.rank])))

    def _native(self, process_set_id: int, ranks: list[int]) -> Any:
        native = self._hvd.ProcessSet(ranks)
        native.process_set_id = process_set_id
        return native

    def start_timeline(self, file_path: str, mark_cycles: bool) -> None:
        # Not set for everybody: while it is, ranks exchange a word more in every cycle, also when nothing is written.
        if not env.get("HOROVOD_TIMELINE"):
            raise UsageError(
                "Horovod can only record a timeline if this was enabled at the start.",
                fix="set HOROVOD_TIMELINE=DYNAMIC for every rank before it starts, or use the MPI engine, which needs "
                "no such variable.",
            )
        self._hvd.start_timeline(file_path, mark_cycles)

    def stop_timeline(self) -> None:
        self._hvd.stop_timeline()

    def allgather(self, tensor: Any, name: str | None) -> Any:
        tensor = tensor if tensor.shape.rank != 0 else tensor[None]
        if tensor.dtype.name not in bitcast.NAMES:
            return self._allgather(tensor, name)
        import tensorflow as tf

        # Other bits have no gradient, so these bring their own.
        gathered = lambda x: bitcast.restored(self._allgather(bitcast.sendable(x), name), x)
        return tf.custom_gradient(lambda x: (gathered(x), functools.partial(gradient_of_own_rows, self, x)))(tensor)

    def _allgather(self, tensor: Any, name: str | None) -> Any:
        return self._hvd.allgather(
            tensor, name=name and _op_name(name), ignore_name_scope=bool(name), process_set=self._set
        )

    def broadcast(self, tensor: Any, root_rank: int, name: str | None) -> Any:
        import tensorflow as tf

        backward = functools.partial(gradient_at_root, self, self._hvd.rank() == root_rank)
        moved = lambda x: bitcast.restored(self._broadcast(bitcast.sendable(x), root_rank, name), x)
        return tf.custom_gradient(lambda x: (moved(x), backward))(tensor)

    def _broadcast(self, tensor: Any, root_rank: int, name: str | None) -> Any:
        return self._hvd.broadcast(
            tensor, root_rank, name=name and _op_name(name), ignore_name_scope=bool(name), process_set=self._set
        )

    def alltoall(self, tensor: Any, splits: Any, name: str | None) -> tuple[Any, Any]:
        if splits is None:
            rows = tensor.shape[0]
            if rows is not None and rows % self.size:
                raise ValueError(f"{rows} rows cannot be divided over {self.size} ranks evenly: pass `splits`.")
            splits = [rows // self.size] * self.size if rows is not None else self._even_splits(tensor)
        return self._hvd.alltoall(
            tensor,
            splits=splits,
            name=name and _op_name(name),
            ignore_name_scope=bool(name),
            process_set=self._set,
        )

    def _even_splits(self, tensor: Any) -> Any:
        """In a graph that does not know the rows; of a rest Horovod would say nothing, and lose it."""
        import tensorflow as tf

        rows = tf.shape(tensor)[0]
        message = f"The rows cannot be divided over {self.size} ranks evenly: pass `splits`."
        with tf.control_dependencies([tf.debugging.assert_equal(rows % self.size, 0, message)]):
            return tf.fill([self.size], rows // self.size)

    def reducescatter(self, tensor: Any, op: ReduceOp, name: str | None) -> Any:
        import tensorflow as tf

        backward = functools.partial(gradient_of_scattered, self, op)
        return tf.custom_gradient(lambda x: (self._reducescatter(x, op, name), backward))(tensor)

    def _reducescatter(self, tensor: Any, op: ReduceOp, name: str | None) -> Any:
        if tensor.dtype.size == 1 or op not in (ReduceOp.SUM, ReduceOp.AVERAGE):  # Horovod reduces these only
            return own_rows(self.allreduce([tensor], op, name and [name])[0], self.rank, self.size)
        wire_op, divisor = sum_of_divided(op, tensor.dtype.name, self.size)
        return self._hvd.mpi_ops._reducescatter(
            tensor,
            op=self._ops[wire_op],
            name=name and _op_name(name),
            prescale_factor=1.0 / divisor,
            ignore_name_scope=bool(name),
            process_set=self._set,
        )

    def fp16_slow_reason(self) -> str | None:
        return "Gloo sums halves one by one, in software" if self._hvd.gloo_enabled() else None

    def enabled(self, feature: str) -> bool:
        if feature == "mpi_threads":
            return bool(self._hvd.mpi_enabled() and self._hvd.mpi_threads_supported())
        return bool(getattr(self._hvd, f"{feature}_enabled")())

    def shutdown(self) -> None:
        self._hvd.shutdown()


def _leave() -> None:
    if not uncaught.has_come():
        rank_leaves()


def _op_name(name: str) -> str:
    """A name TensorFlow accepts for an operation, without a scope."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)


def library_built(feature: str) -> bool:
    """Whether the installed Horovod was built with ``gloo``, ``mpi``, ``nccl``, ...; works before ``init``."""
    try:
        return bool(getattr(load_horovod(), f"{feature}_built")())
    except HorovodMissingError:
        return False
