"""``hvd.Compression``: how tensors travel, by Horovod's names."""

from __future__ import annotations

from typing import Any


class _None:
    """``hvd.Compression.none``: tensors are sent unchanged."""

    name = "none"

    @staticmethod
    def compress(tensor: Any) -> tuple[Any, Any]:
        """What is sent, and what ``decompress`` needs to know."""
        return tensor, None

    @staticmethod
    def decompress(tensor: Any, ctx: Any) -> Any:
        """What was received, as the tensor it stands for."""
        return tensor


class _FP16:
    """``hvd.Compression.fp16``: floating-point tensors are sent as float16."""

    name = "fp16"

    @staticmethod
    def compress(tensor: Any) -> tuple[Any, Any]:
        """The tensor as float16, and its own dtype."""
        import tensorflow as tf

        return (tf.cast(tensor, tf.float16) if tensor.dtype.is_floating else tensor), tensor.dtype

    @staticmethod
    def decompress(tensor: Any, ctx: Any) -> Any:
        """The tensor in its own dtype again."""
        import tensorflow as tf

        return tf.cast(tensor, ctx)


class Compression:
    """Horovod's compressions; ``compression=`` accepts these, and also names, dicts and reducers.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.Compression.fp16.name
    'fp16'
    """

    none = _None
    fp16 = _FP16


def resolve_compression(compression: Any) -> Any:
    """What has ``compress`` and ``decompress``, from that, a name or None."""
    if compression is None or isinstance(compression, str):
        return getattr(Compression, compression or "none")
    return compression
