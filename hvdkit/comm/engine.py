"""What an engine is: the ranks, and the few collectives that everything else is made of."""

from __future__ import annotations

import abc
import functools
from enum import Enum
from typing import Any

import numpy as np

from hvdkit.comm.buckets import pack
from hvdkit.errors import UsageError


class ReduceOp(str, Enum):
    """How a reduction combines the ranks' values."""

    AVERAGE = "average"
    SUM = "sum"
    ADASUM = "adasum"
    MIN = "min"
    MAX = "max"
    PRODUCT = "product"

    @classmethod
    def get(cls, op: ReduceOp | str) -> ReduceOp:
        """A ``ReduceOp`` from itself or from its name.

        Raises:
            ValueError: there is no such operation.

        Example:

        >>> ReduceOp.get("sum")
        <ReduceOp.SUM: 'sum'>
        """
        try:
            return cls(op.lower() if isinstance(op, str) else op)
        except ValueError:
            known = ", ".join(f"hvd.{o.name.title()}" for o in cls)
            raise ValueError(f"`op` must be one of {known}. Received: op={op!r}") from None


# What can be reduced by every engine; bfloat16 and the small or unsigned integers are not among them.
REDUCIBLE = ("uint8", "int8", "int32", "int64", "float16", "float32", "float64")


@functools.cache
def name_of(dtype: Any) -> str:
    """``dtype.name`` of NumPy's or TensorFlow's; NumPy takes microseconds to make it, each time.

    >>> import numpy as np
    >>> name_of(np.dtype("float32"))
    'float32'
    """
    return dtype.name


def check_reducible(tensors: list, names: list[str] | None) -> None:
    """Refuse dtypes that no engine reduces.

    Raises:
        TypeError: there is one; it is named.
    """
    for i, tensor in enumerate(tensors):
        if name_of(tensor.dtype) not in REDUCIBLE:
            what = names[i] if names else getattr(tensor, "name", "the tensor")
            raise TypeError(
                f"{tensor.dtype.name} cannot be reduced ({what}). What can is {', '.join(REDUCIBLE)}: cast it first, "
                "e.g. bfloat16 to float32."
            )


class Engine(abc.ABC):
    """Moves bytes between ranks.

    Tensors are ``tf.Tensor``, eager or symbolic. Every rank must make the same calls in the same order, with tensors
    of the same dtype and (but for the first axis of ``allgather`` and ``alltoall``) the same shape. ``name`` is the
    tensor's name in messages and, inside a graph, what ranks recognise the collective by; None lets the engine choose.

    Attributes:
        name: of the engine, in the registry.
        supports_numpy: whether the collectives also take and return NumPy arrays.
        alone_from: bytes from which a tensor gains nothing from being copied into a bucket with others.
        failure: what broke a collective off, where the engine knows it better than TensorFlow's error.
        is_subgroup: whether this is the engine of a process set.
    """

    name: str
    supports_numpy = False
    alone_from = 2**16
    failure: Exception | None = None
    is_subgroup = False
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    @staticmethod
    def why_not() -> str | None:
        """Why ``engine="auto"`` should rather take another engine among the ranks there are, in a few words.

        Raises:
            LaunchError: it cannot be used at all.
        """
        return None

    def allreduce(
        self,
        tensors: list,
        op: ReduceOp,
        names: list[str] | None,
        prescale: float = 1.0,
        postscale: float = 1.0,
        *,
        reusable: list[bool] | None = None,
    ) -> list:
        """Reduce each tensor over the ranks; same shapes and dtypes come back.

        ``reusable`` says which tensors nothing else reads: they may be overwritten.

        Raises:
            TypeError: a dtype that no engine reduces.
            UsageError: an operation that these ranks cannot do.
        """
        self.check_reduction(tensors, op, names)
        names, reusable = names or [None] * len(tensors), reusable or [False] * len(tensors)
        return [
            self.reduce_tensor(tensor, op, name, (prescale, postscale), reusable=may_overwrite)
            for tensor, name, may_overwrite in zip(tensors, names, reusable, strict=True)
        ]

    @abc.abstractmethod
    def reduce_tensor(
        self, tensor: Any, op: ReduceOp, name: str | None, scales: tuple[float, float], *, reusable: bool
    ) -> Any:
        """Reduce one tensor; ``scales`` multiply it before and after."""

    @abc.abstractmethod
    def allgather(self, tensor: Any, name: str | None) -> Any:
        """Concatenate the ranks' tensors along axis 0, in the order of the ranks."""

    @abc.abstractmethod
    def broadcast(self, tensor: Any, root_rank: int, name: str | None) -> Any:
        """The root's tensor."""

    @abc.abstractmethod
    def alltoall(self, tensor: Any, splits: Any, name: str | None) -> tuple[Any, Any]:
        """Send ``splits[r]`` rows to rank r; what was received, and how many rows from each rank."""

    @abc.abstractmethod
    def reducescatter(self, tensor: Any, op: ReduceOp, name: str | None) -> Any:
        """Reduce over the ranks and keep this rank's part of the rows."""

    @abc.abstractmethod
    def subgroup(self, process_set_id: int, ranks: list[int]) -> Engine:
        """This engine among some of the ranks, which this one is one of; ``rank`` and ``size`` are those in the set."""

    @abc.abstractmethod
    def shutdown(self) -> None:
        """Leave the world."""

    def check_reduction(self, tensors: list, op: ReduceOp, names: list[str] | None) -> None:
        """Refuse what cannot be reduced, before anything is sent."""
        check_reducible(tensors, names)
        if op is not ReduceOp.ADASUM:
            return
        if self.is_subgroup:
            raise UsageError("Adasum works among all ranks, not in a process set.", fix="op=hvd.Average.")
        if self.size & (self.size - 1):
            raise UsageError(f"Adasum needs a power of two of ranks. There are {self.size}.", fix="op=hvd.Average.")

    def grouped_allreduce(
        self, tensors: list, op: ReduceOp, names: list[str] | None, prescale: float = 1.0, postscale: float = 1.0
    ) -> list:
        """``allreduce`` that moves the tensors together or not at all: here, in one flat bucket per dtype."""
        if op is ReduceOp.ADASUM or any(isinstance(tensor, np.ndarray) for tensor in tensors):
            return self.allreduce(tensors, op, names, prescale, postscale)
        packed = pack(tensors, names, 2**62, 2**62)
        return packed.unpack(
            self.allreduce(packed.tensors, op, packed.names, prescale, postscale, reusable=packed.reusable)
        )

    def barrier(self) -> None:
        """Return when every rank is here."""
        import tensorflow as tf

        with tf.device("CPU:0"):
            self.allreduce([tf.zeros([1])], ReduceOp.SUM, None)

    def add_process_set(self, ranks: list[int]) -> int:
        """Make a process set; its number.

        Raises:
            UsageError: this engine, or this world, makes none after ``init``.
        """
        raise UsageError(f"The engine {self.name!r} has no process sets.", fix="hvd.init(engine=...) with another.")

    def remove_process_set(self, process_set_id: int) -> bool:
        """End a process set; whether there was one."""
        return False

    def start_timeline(self, file_path: str, mark_cycles: bool) -> None:
        """Begin to record what the transport does, on rank 0."""
        raise UsageError(f"The engine {self.name!r} records no timeline.", fix="hvd.init(engine=...) with another.")

    def stop_timeline(self) -> None:
        """End the recording and close its file."""
        return

    def fp16_slow_reason(self) -> str | None:
        """Why float16 takes no less time than float32 here, in a few words; None where it is worth its rounding."""
        return None

    def enabled(self, feature: str) -> bool:
        """Whether this run uses ``gloo``, ``mpi``, or may call MPI from several threads (``mpi_threads``)."""
        return False
