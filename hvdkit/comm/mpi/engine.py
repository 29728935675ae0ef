"""The engine of ranks that an MPI started, on host memory: no negotiation, no thread of its own."""

from __future__ import annotations

import atexit
import copy
import functools
import socket
from collections.abc import Callable
from typing import Any

import numpy as np

from hvdkit.comm import bitcast
from hvdkit.comm.engine import Engine, ReduceOp, name_of
from hvdkit.comm.gradients import gradient_at_root, gradient_of_own_rows, gradient_of_scattered
from hvdkit.comm.mpi import graph_ops, graph_order
from hvdkit.comm.mpi.algorithms import ALGORITHMS
from hvdkit.comm.mpi.communicator import Communicator
from hvdkit.comm.mpi.library import load_mpi
from hvdkit.comm.mpi.timeline import Timeline
from hvdkit.comm.mpi.timeout import Timeout
from hvdkit.comm.values import own_rows
from hvdkit.engines.mpi import COLLECTIVE
from hvdkit.errors import HvdkitError, UsageError


class MpiEngine(Engine):
    """The world that mpirun or srun started, through mpi4py.

    Ranks recognise a collective by its place in the program, and check what is in it. Inside a host they reduce through
    shared memory, between hosts by MPI.

    Args:
        deadline: seconds a rank waits for the others in one collective before the job is ended, naming who is
            missing; 0 waits for ever.
        comm: an ``mpi4py`` communicator or a list of ranks to be the world instead of all that were launched.
        process_sets: the ``ProcessSet`` to register, or ``"dynamic"``.
        algorithm: how hosts reduce: one of ``hvdkit.engines.mpi.Mpi.algorithms``; ``"auto"`` chooses by the size.
    """

    name = "mpi"
    supports_numpy = True
    # A tensor of this many bytes travels as it is: copying it into a bucket would cost more than its own rendezvous.
    alone_from = 2**20

    @staticmethod
    def why_not() -> str | None:
        """Why ``engine="auto"`` should rather take another: a rank has GPUs, whose memory this one does not reach.

        Raises:
            LaunchError: mpi4py does not load, or does not find the ranks.
        """
        import tensorflow as tf

        mpi, gpus = load_mpi(), len(tf.config.list_physical_devices("GPU"))
        return "there are GPUs" if mpi.COMM_WORLD.allreduce(gpus, mpi.MAX) else None  # all ranks have to choose alike

    def __init__(self, deadline: float = 600.0, comm: Any = None, process_sets: Any = None, algorithm: str = "auto"):
        mpi = load_mpi()
        chosen = mpi.COMM_WORLD if comm is None else comm
        if not hasattr(chosen, "Get_rank"):
            chosen = mpi.COMM_WORLD.Create_group(mpi.COMM_WORLD.group.Incl(sorted(chosen)))
        hosts = chosen.allgather(socket.gethostname())
        between_hosts = algorithm if algorithm in ALGORITHMS else None
        self._comm = Communicator(chosen, Timeout(chosen.rank, deadline, hosts), algorithm=between_hosts)
        self.failure: HvdkitError | None = None
        self._world, self._timeline = self, Timeline()
        self._left = False
        self._sets: dict[int, tuple[list[int], Communicator | None]] = {}
        self._dynamic, self._made = isinstance(process_sets, str), 0
        self._adopt(self._comm)
        for process_set in () if self._dynamic else process_sets or ():
            if process_set.ranks is None:
                process_set.ranks = self._ranks_of(process_set.mpi_comm)
            process_set.process_set_id = self._make_set(process_set.ranks)
        atexit.register(self._leave)
        graph_order.install_ordering(COLLECTIVE)

    def _adopt(self, ranks: Communicator) -> None:
        self._comm = ranks
        self.rank, self.size = ranks.rank, ranks.size
        self.local_rank, self.local_size = ranks.local_rank, ranks.local_size
        self.cross_rank, self.cross_size = ranks.cross_rank, ranks.cross_size

    def reduce_tensor(
        self, tensor: Any, op: ReduceOp, name: str | None, scales: tuple[float, float], *, reusable: bool
    ) -> Any:
        if name_of(tensor.dtype) == "float16":  # summed in float32, which holds what the sum of halves may lose
            wide = self._reduce(bitcast.cast(tensor, "float32"), op, name, scales, reusable=False, as_float16=True)
            return bitcast.cast(wide, "float16")
        return self._reduce(tensor, op, name, scales, reusable=reusable)

    def _reduce(
        self,
        tensor: Any,
        op: ReduceOp,
        name: str | None,
        scales: tuple[float, float],
        *,
        reusable: bool,
        as_float16: bool = False,
    ) -> Any:
        kind, eager = f"allreduce {op.value}", graph_ops.eager()

        def collective(x: np.ndarray) -> list:
            what = _what(kind, name, x, x.shape)
            # A graph is the same on every rank, as the pipeline has made sure.
            return [
                self._comm.allreduce(x, op, *scales, in_place=reusable, what=what, as_float16=as_float16, check=eager)
            ]

        def backward(upstream: Any) -> Any:
            return self._reduce(upstream, op, None, scales, reusable=False, as_float16=as_float16)

        return self._run(kind, collective, [tensor], [tensor], backward)[0]

    def allgather(self, tensor: Any, name: str | None) -> Any:
        tensor = tensor if len(tensor.shape) else tensor[None]

        def collective(x: np.ndarray) -> list:
            what = _what("allgather", name, x, ("rows", *x.shape[1:]))
            self._comm.check_same(what)
            return [self._comm.allgather(x, what)]

        backward = functools.partial(gradient_of_own_rows, self, tensor)
        return self._run("allgather", collective, [tensor], [_any_rows(tensor)], backward)[0]

    def broadcast(self, tensor: Any, root_rank: int, name: str | None) -> Any:
        root = self._comm.world_ranks.index(root_rank)

        def collective(x: np.ndarray) -> list:
            what = _what(f"broadcast from {root_rank}", name, x, x.shape)
            self._comm.check_same(what)
            return [self._comm.broadcast(x, root, what)]

        backward = functools.partial(gradient_at_root, self, self.rank == root)
        return self._run("broadcast", collective, [tensor], [tensor], backward)[0]

    def alltoall(self, tensor: Any, splits: Any, name: str | None) -> tuple[Any, Any]:
        def collective(x: np.ndarray, *given: np.ndarray) -> list:
            what = _what("alltoall", name, x, ("rows", *x.shape[1:]))
            self._comm.check_same(what)
            return list(self._comm.alltoall(x, given[0] if given else _even(len(x), self.size), what))

        def backward(upstream: Any, _rows: Any) -> Any:
            return self.alltoall(upstream, received[1], None)[0]

        if splits is None and tensor.shape[0] is not None:
            _even(tensor.shape[0], self.size)  # a rest is an error now, not when the graph runs
        given = [] if splits is None else [bitcast.cast(splits, "int32")]
        like = [_any_rows(tensor), np.empty(self.size, np.int32)]
        received = self._run("alltoall", collective, [tensor, *given], like, backward)
        return received[0], received[1]

    def reducescatter(self, tensor: Any, op: ReduceOp, name: str | None) -> Any:
        if isinstance(tensor, np.ndarray):
            return own_rows(self.allreduce([tensor], op, name and [name])[0], self.rank, self.size)
        import tensorflow as tf

        backward = functools.partial(gradient_of_scattered, self, op)
        reduce = lambda x: own_rows(self.allreduce([x], op, name and [name])[0], self.rank, self.size)
        return tf.custom_gradient(lambda x: (reduce(x), backward))(tensor)

    def barrier(self) -> None:
        self._comm.check_same("barrier")
        self._comm.barrier()

    def subgroup(self, process_set_id: int, ranks: list[int]) -> MpiEngine:
        if process_set_id not in self._world._sets:
            raise UsageError(f"There is no process set {process_set_id}.", fix="hvd.add_process_set(ranks).")
        engine = copy.copy(self)
        engine._adopt(self._world._sets[process_set_id][1])
        engine.is_subgroup = True
        return engine

    def add_process_set(self, ranks: list[int]) -> int:
        if not self._dynamic:
            raise UsageError(
                f"The process set {ranks} cannot be created: only the process sets of hvd.init() exist.",
                fix='call hvd.init(process_sets="dynamic").',
            )
        return self._make_set(ranks)

    def _make_set(self, ranks: list[int]) -> int:
        if any(ranks == known for known, _ in self._sets.values()):
            raise UsageError(f"The process set {ranks} cannot be created: these ranks have a set.", fix="use that set.")
        self._made += 1
        subgroup = self._comm.subgroup(ranks) if self.rank in ranks else None
        self._sets[self._made] = (list(ranks), subgroup)
        return self._made

    def _ranks_of(self, comm: Any) -> list[int]:
        return sorted(comm.group.Translate_ranks(None, self._comm.comm.group))

    def remove_process_set(self, process_set_id: int) -> bool:
        return self._sets.pop(process_set_id, None) is not None

    def start_timeline(self, file_path: str, mark_cycles: bool) -> None:
        if self.rank == 0:
            self._timeline.start(file_path)

    def stop_timeline(self) -> None:
        self._timeline.stop()

    def fp16_slow_reason(self) -> str | None:
        if self._comm.hosts > 1:  # where they travel as they are
            return None
        return "inside a host the MPI engine sums halves as float32, and moves those"

    def enabled(self, feature: str) -> bool:
        return feature in ("mpi", "mpi_threads")

    def shutdown(self) -> None:
        graph_order.remove()
        atexit.unregister(self._leave)
        self._leave()

    def _leave(self) -> None:
        self._left = True
        for _, communicator in [*self._sets.values(), (None, self._comm)]:
            if communicator is not None:
                communicator.leave()

    def _run(self, kind: str, collective: Callable, inputs: list, like: list, backward: Callable) -> list:
        """A collective, now or in the graph; ``like`` tells the results' dtypes and shapes."""

        def watched(*arrays: np.ndarray) -> list:
            try:
                if self._world._left:
                    raise UsageError(
                        f"A collective ({kind}) of a world that hvd.shutdown() has left was called.",
                        fix="hvd.shutdown() after the last collective, also after those of a tf.function.",
                    )
                with self._timeline.span(kind, sum(a.nbytes for a in arrays)):
                    return collective(*arrays)
            except HvdkitError as error:
                self._world.failure = error  # TensorFlow would only show its text, in the middle of a stack
                raise

        if all(isinstance(value, np.ndarray) for value in inputs):
            return watched(*inputs)
        import tensorflow as tf

        wire_dtype = bitcast.NAMES.get(inputs[0].dtype.name)

        @tf.custom_gradient
        def differentiable(*tensors: Any) -> tuple:
            sent = [tf.bitcast(tensors[0], wire_dtype) if wire_dtype else tensors[0], *tensors[1:]]
            dtypes = [sent[0].dtype, *(tf.as_dtype(other.dtype.name) for other in like[1:])]
            made = graph_ops.call_numpy(watched, sent, dtypes)
            made[0] = tf.bitcast(made[0], tensors[0].dtype) if wire_dtype else made[0]
            for out, known in zip(made, like, strict=True):
                if hasattr(out, "set_shape") and not tf.executing_eagerly():
                    out.set_shape(known.shape)

            def gradient(*upstream: Any) -> list:
                return [backward(*upstream), *[None] * (len(tensors) - 1)]

            return tuple(made), gradient

        return list(differentiable(*[tf.convert_to_tensor(value) for value in inputs]))


def _what(kind: str, name: str | None, x: np.ndarray, shape: tuple) -> str:
    return f"{kind}{f' {name}' if name else ''}, {name_of(x.dtype)} [{', '.join(map(str, shape))}]"


def _any_rows(tensor: Any) -> Any:
    import tensorflow as tf

    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) if not isinstance(tensor, np.ndarray) else tensor


def _even(rows: int, size: int) -> np.ndarray:
    if rows % size:
        raise ValueError(f"{rows} rows cannot be divided over {size} ranks evenly: pass `splits`.")
    return np.full(size, rows // size, np.int32)
