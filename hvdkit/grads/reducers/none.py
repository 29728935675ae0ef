"""Gradients travel as they are."""

from __future__ import annotations

from hvdkit.comm.engine import Engine, ReduceOp


class NoCompression:
    """``compression=None`` or ``"none"``: every gradient in its own dtype, all the bits."""

    def reduce(self, gradients: list, names: list[str], op: ReduceOp, engine: Engine) -> list:
        return engine.allreduce(gradients, op, names)
