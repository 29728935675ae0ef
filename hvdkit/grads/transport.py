"""The engine as a reducer is given it: what it sends travels in flat buckets, or in groups."""

from __future__ import annotations

from typing import Any

from hvdkit.comm.buckets import BUCKET_BYTES, Packed, pack
from hvdkit.comm.engine import Engine, ReduceOp


class Transport:
    """An engine whose ``allreduce`` moves small tensors of one call in flat buckets; all else is the engine's own.

    Args:
        engine: what moves the bytes.
        bucket_bytes: the size of a bucket, and from which a tensor travels alone; None is the engine's own choice, 0
            packs nothing.
        grouped: move the tensors of one call together or not at all instead, as the engine does it.
    """

    def __init__(self, engine: Engine, bucket_bytes: int | None = None, *, grouped: bool = False):
        self._engine, self._grouped = engine, grouped
        if bucket_bytes is None:
            self._limits = BUCKET_BYTES, engine.alone_from
        else:
            self._limits = bucket_bytes, max(bucket_bytes, 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

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
        """``Engine.allreduce``, in buckets, which are overwritten; ``reusable`` changes nothing."""
        if self._grouped:
            return self._engine.grouped_allreduce(tensors, op, names, prescale, postscale)
        packed = self.pack(tensors, names, op)
        return packed.unpack(
            self._engine.allreduce(packed.tensors, op, packed.names, prescale, postscale, reusable=packed.reusable)
        )

    def pack(self, tensors: list, names: list[str] | None, op: ReduceOp) -> Packed:
        """Tensors as they travel; each alone for Adasum, which looks at each by itself."""
        bucket_bytes, alone_from = (0, 0) if self._grouped or op is ReduceOp.ADASUM else self._limits
        return pack(tensors, names, bucket_bytes, alone_from)

    def reduce_by(self, reducer: Any, tensors: list, names: list[str], op: ReduceOp) -> list:
        """Let a reducer reduce tensors, or the flat buckets they travel in where it wants those (``flat``)."""
        if self._grouped or not getattr(reducer, "flat", False):
            return reducer.reduce(tensors, names, op, self)
        packed = self.pack(tensors, names, op)
        return packed.unpack(reducer.reduce(packed.tensors, packed.names, op, self._engine))
