"""Flat buckets: many small tensors travel as few one-dimensional ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BUCKET_BYTES = 4 * 2**20


def partition(tensors: list[tuple[str, int | None]], bucket_bytes: int, alone_from: int) -> list[list[int]]:
    """Which tensors go together, in the order given; one dtype to a bucket.

    Args:
        tensors: dtype and size in bytes of each; a size of None is not known, and travels alone.
        bucket_bytes: a bucket is closed when the next tensor would not fit.
        alone_from: a tensor of this many bytes gains nothing from being copied, and travels alone.

    Example:

    >>> partition([("float32", 40), ("float32", 4000), ("float16", 2), ("float32", 40), ("float32", 30)], 100, 1000)
    [[0, 3], [1], [2], [4]]
    """
    made: list[list[int]] = []
    open_: dict[str, tuple[list[int], int]] = {}
    for i, (dtype, size) in enumerate(tensors):
        if size is None or size >= alone_from:
            made.append([i])
            continue
        bucket, filled = open_.get(dtype, (None, 0))
        if bucket is None or filled + size > bucket_bytes:
            bucket, filled = [], 0
            made.append(bucket)
        bucket.append(i)
        open_[dtype] = bucket, filled + size
    return made


@dataclass(frozen=True)
class Packed:
    """Tensors as they travel.

    Attributes:
        tensors: flat buckets, and the tensors that travel alone as they are.
        names: a name for each.
        reusable: whether each is a buffer that nothing else reads, so that a transport may overwrite it.
    """

    tensors: list
    names: list[str] | None
    reusable: list[bool]
    _originals: list
    _places: list[list[int]]

    def unpack(self, reduced: list) -> list:
        """What became of ``tensors``, in the order and shapes of those that were packed."""
        import tensorflow as tf

        out: dict[int, Any] = {}
        for places, flat in zip(self._places, reduced, strict=True):
            if len(places) == 1:
                out[places[0]] = flat
                continue
            parts = [self._originals[i] for i in places]
            pieces = tf.split(flat, [part.shape.num_elements() for part in parts])
            for i, piece, part in zip(places, pieces, parts, strict=True):
                out[i] = piece if part.shape.rank == 1 else tf.reshape(piece, part.shape)
        return [out[i] for i in range(len(self._originals))]


def pack(tensors: list, names: list[str] | None, bucket_bytes: int, alone_from: int) -> Packed:
    """Pack dense ``tf.Tensor`` into buckets; ``bucket_bytes`` and ``alone_from`` as for ``partition``."""
    places = partition([(t.dtype.name, _bytes(t)) for t in tensors], bucket_bytes, alone_from)
    packed = [_flat([tensors[i] for i in bucket]) if len(bucket) > 1 else tensors[bucket[0]] for bucket in places]
    suffixes = [".bucket" if len(bucket) > 1 else "" for bucket in places]
    packed_names = (
        [names[bucket[0]] + suffix for bucket, suffix in zip(places, suffixes, strict=True)] if names else None
    )
    return Packed(packed, packed_names, [len(bucket) > 1 for bucket in places], tensors, places)


def _flat(parts: list) -> Any:
    """One tensor of the values of several, which nothing else reads and each step makes anew.

    TensorFlow computes what is made of constants only once, and would give all steps the buffer that a transport has
    overwritten. So an empty tensor is among the parts, whose operation is never computed in advance.
    """
    import tensorflow as tf

    # A reshape costs as much as a small copy: most small tensors are flat as they are.
    flat = [part if part.shape.rank == 1 else tf.reshape(part, [-1]) for part in parts]
    return tf.concat([*flat, tf.raw_ops.Empty(shape=[0], dtype=parts[0].dtype)], 0)


def _bytes(tensor: Any) -> int | None:
    elements = tensor.shape.num_elements()
    return None if elements is None else elements * tensor.dtype.size
