"""Memory for results, used again: fresh memory of many megabytes costs more page faults than its reduction."""

from __future__ import annotations

import sys

import numpy as np

_ALIGNED = 64  # what TensorFlow asks for to take an array as it is, without a copy
_WORTH_KEEPING = 2**18
# The pool's list, the loop's name, and getrefcount's argument.
_NOBODY_ELSE = 3


class Buffers:
    """A pool of arrays; one is used again when nothing refers to it any more, TensorFlow's tensors included.

    Args:
        kept: how many arrays of one length are kept at most.

    Example:

    >>> buffers = Buffers()
    >>> first = buffers.take(np.dtype("float32"), 2**20)
    >>> first.ctypes.data % 64
    0
    >>> place = first.ctypes.data
    >>> buffers.take(np.dtype("float32"), 2**20).ctypes.data == place  # `first` still lives
    False
    >>> del first
    >>> buffers.take(np.dtype("float32"), 2**20).ctypes.data == place
    True
    """

    def __init__(self, kept: int = 2) -> None:
        self._kept = kept
        self._free: dict[int, list[np.ndarray]] = {}

    def take(self, dtype: np.dtype, size: int) -> np.ndarray:
        """An array of ``size`` values, flat and aligned, with anything in it."""
        length = size * dtype.itemsize
        kept = self._free.setdefault(length, []) if length >= _WORTH_KEEPING else []
        for buffer in kept:
            if sys.getrefcount(buffer) <= _NOBODY_ELSE:
                break
        else:
            buffer = np.empty(length + _ALIGNED, np.uint8)
            if length >= _WORTH_KEEPING and len(kept) < self._kept:
                kept.append(buffer)
        begin = -buffer.ctypes.data % _ALIGNED
        return buffer[begin : begin + length].view(dtype)
