"""Fused buckets: many small tensors travel as few flat buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BUCKET_BYTES = 4 * 2**20


def buckets(tensors: list[tuple[str, int | None]], bucket_bytes: int, alone_from: int) -> list[list[int]]:
    """Which tensors go together, in the order given; one dtype to a bucket.

    Args:
        tensors: dtype and size in bytes of each; a size of None is not known, and travels alone.
        bucket_bytes: a bucket is closed when the next tensor would not fit.
        alone_from: a tensor of so many bytes gains nothing from being copied, and travels alone.

    Example:

    >>> buckets([("float32", 40), ("float32", 4000), ("float16", 2), ("float32", 40), ("float32", 30)], 100, 1000)
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


def in_buckets(
    reduce: Callable[[list, list[str] | None, bool], list],
    tensors: list,
    names: list[str] | None,
    limits: tuple[int, int],
) -> list:
    """Reduce tensors in buckets.

    Args:
        reduce: reduces tensors, given their names and whether they are buffers that nobody else reads.
        tensors: dense ``tf.Tensor``.
        names: their names, or None.
        limits: ``bucket_bytes`` and ``alone_from``, see ``buckets``.

    Returns:
        The reduced tensors, in their order and shapes.
    """
    import tensorflow as tf

    reduced: dict[int, Any] = {}
    for bucket in buckets([(t.dtype.name, _bytes(t)) for t in tensors], *limits):
        first = names and [names[bucket[0]]]
        if len(bucket) == 1:
            reduced[bucket[0]] = reduce([tensors[bucket[0]]], first, False)[0]
            continue
        parts = [tensors[i] for i in bucket]
        # A reshape costs as much as a small copy: most small tensors are flat as they are.
        flat = tf.concat([part if part.shape.rank == 1 else tf.reshape(part, [-1]) for part in parts], 0)
        (flat,) = reduce([flat], first and [f"{first[0]}.bucket"], True)
        pieces = tf.split(flat, [part.shape.num_elements() for part in parts])
        for i, piece, part in zip(bucket, pieces, parts, strict=True):
            reduced[i] = piece if part.shape.rank == 1 else tf.reshape(piece, part.shape)
    return [reduced[i] for i in range(len(tensors))]


def _bytes(tensor: Any) -> int | None:
    elements = tensor.shape.num_elements()
    return None if elements is None else elements * tensor.dtype.size
