"""Reducers: how dense gradients travel. One file each, and one line here.

A reducer gets the gradients, owns its collective and gives the reduced gradients back. It is a ``compression=`` choice:
a name, a dict ``{"name": ..., **arguments}``, or an instance.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from hvdkit.comm.compression import Compression
from hvdkit.comm.engine import Engine, ReduceOp
from hvdkit.errors import UsageError
from hvdkit.grads.reducers.horovod_style import HorovodStyle
from hvdkit.utils.registry import Registry

REDUCERS = Registry(
    "compression",
    {
        "none": "hvdkit.grads.reducers.none:NoCompression",
        "fp16": "hvdkit.grads.reducers.fp16:FP16Compression",
    },
)


@runtime_checkable
class Reducer(Protocol):
    """The contract of a gradient compressor.

    A class with ``flat = True`` is given the flat buckets (one-dimensional, of one dtype each) that small gradients
    travel in instead of the gradients; large ones come as they are. What it sends is not packed again.
    """

    def reduce(self, gradients: list, names: list[str], op: ReduceOp, engine: Engine) -> list:
        """Reduce dense gradients over the ranks.

        Args:
            gradients: dense ``tf.Tensor``, of any dtype and shape; at least one.
            names: one name per gradient, the same on every rank.
            op: ``ReduceOp.AVERAGE``, ``SUM`` or ``ADASUM``.
            engine: what to send them with.

        Returns:
            Tensors of the same shapes and dtypes, bitwise equal on every rank.
        """


def resolve_reducer(compression: Any) -> Reducer:
    """A reducer from a ``compression=`` argument.

    Args:
        compression: None, a registered name, a dict ``{"name": ..., **arguments}``, an object with ``reduce``, or a
            class or object with ``compress`` and ``decompress`` as Horovod's (``hvd.Compression.fp16``).

    Raises:
        UsageError: an unknown name or something else; the known names are listed.

    Example:

    >>> resolve_reducer("fp16").__class__.__name__, resolve_reducer(None).__class__.__name__
    ('FP16Compression', 'NoCompression')
    """
    if compression is None:
        compression = "none"
    if isinstance(compression, str):
        return REDUCERS.resolve(compression)()
    if isinstance(compression, dict):
        arguments = dict(compression)
        if "name" not in arguments:
            raise UsageError(f"A `compression` dict needs a 'name'. Received: compression={compression!r}.")
        return REDUCERS.resolve(arguments.pop("name"))(**arguments)
    if hasattr(compression, "compress") and hasattr(compression, "decompress"):
        known = {Compression.none: "none", Compression.fp16: "fp16"}
        if isinstance(compression, type) and compression in known:
            return resolve_reducer(known[compression])
        return HorovodStyle(compression)
    if isinstance(compression, Reducer) and not isinstance(compression, type):
        return compression
    raise UsageError(
        f"`compression` must be None, one of {', '.join(REDUCERS.names())}, a dict with a 'name', or an object with "
        f"`reduce` (or Horovod's `compress` and `decompress`). Received: compression={compression!r}."
    )
