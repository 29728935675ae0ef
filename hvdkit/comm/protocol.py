"""What an engine is: the ranks, and the few collectives that everything else is made of."""

from __future__ import annotations

import functools
from enum import Enum
from typing import Any, Protocol, runtime_checkable


class ReduceOp(str, Enum):
    """How a reduction joins the ranks' values."""

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
            ValueError: no such operation.

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


@runtime_checkable
class Engine(Protocol):
    """Moves bytes between ranks.

    Tensors are ``tf.Tensor``, eager or symbolic. Every rank must make the same calls in the same order, with tensors
    of the same dtype and (but for the first axis of ``allgather`` and ``alltoall``) the same shape. ``name`` is the
    tensor's name in messages and, inside a graph, what ranks recognise the collective by; None lets the engine choose.
    """

    name: str
    takes_arrays: bool
    """Whether the collectives also take and return NumPy arrays."""
    failure: Exception | None
    """What broke a collective off, where the engine knows it better than TensorFlow's error."""
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    def allreduce(
        self, tensors: list, op: ReduceOp, names: list[str] | None, prescale: float = 1.0, postscale: float = 1.0
    ) -> list:
        """Reduce each tensor over the ranks; same shapes and dtypes come back."""

    def allgather(self, tensor: Any, name: str | None) -> Any:
        """Concatenate the ranks' tensors along axis 0, in the order of the ranks."""

    def broadcast(self, tensor: Any, root_rank: int, name: str | None) -> Any:
        """The root's tensor."""

    def alltoall(self, tensor: Any, splits: Any, name: str | None) -> tuple[Any, Any]:
        """Send ``splits[r]`` rows to rank r; what was received, and how many rows from each rank."""

    def reducescatter(self, tensor: Any, op: ReduceOp, name: str | None) -> Any:
        """Reduce over the ranks and keep this rank's share of the rows."""

    def barrier(self) -> None:
        """Return when every rank is here."""

    def within(self, process_set_id: int, ranks: list[int]) -> Engine:
        """This engine among some of the ranks, which this one is one of; ``rank`` and ``size`` are those in the set."""

    def grouped(self) -> Engine:
        """This engine, but that it moves the tensors of one ``allreduce`` call together or not at all."""

    def fused(self, bucket_bytes: int | None) -> Engine:
        """This engine, but that it moves small tensors of one ``allreduce`` call in flat buckets.

        ``bucket_bytes`` is the size of a bucket, and from which a tensor travels alone; None is the engine's own
        choice, 0 fuses nothing.
        """

    def add_process_set(self, ranks: list[int]) -> int:
        """Make a process set; its number."""

    def remove_process_set(self, process_set_id: int) -> bool:
        """End a process set; whether there was one."""

    def start_timeline(self, file_path: str, mark_cycles: bool) -> None:
        """Begin to record what the transport does, on rank 0."""

    def stop_timeline(self) -> None:
        """End the recording and close its file."""

    def why_halves_are_slow(self) -> str | None:
        """Why float16 takes no less time than float32 here, in a few words; None where it is worth its rounding."""

    def enabled(self, feature: str) -> bool:
        """Whether this run uses ``gloo``, ``mpi``, or may call MPI from several threads (``mpi_threads``)."""

    def shutdown(self) -> None:
        """Leave the world."""
