"""Compressors written for Horovod."""

from __future__ import annotations

from typing import Any

from hvdkit.comm.engine import Engine, ReduceOp


class HorovodStyle:
    """A compressor with Horovod's ``compress(tensor) -> (tensor, ctx)`` and ``decompress(tensor, ctx)``.

    Args:
        compressor: a class with static methods, or an object.
    """

    def __init__(self, compressor: Any):
        self.compressor = compressor

    def reduce(self, gradients: list, names: list[str], op: ReduceOp, engine: Engine) -> list:
        sent, contexts = zip(*map(self.compressor.compress, gradients), strict=True)
        received = engine.allreduce(list(sent), op, names)
        return [self.compressor.decompress(r, context) for r, context in zip(received, contexts, strict=True)]
