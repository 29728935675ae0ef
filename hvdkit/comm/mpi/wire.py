"""What values look like between hosts: as they are, or as float16 that are added up in float32."""

from __future__ import annotations

import numpy as np

from hvdkit.comm.mpi.buffers import Buffers

_ROUNDED_TO = 2**18


class Scratch:
    """Memory for what is received and added up; it is used again."""

    def __init__(self, kept: int):
        self._buffers = Buffers(kept)

    def take(self, dtype: np.dtype, size: int) -> np.ndarray:
        """``size`` values with anything in them."""
        length = size * dtype.itemsize
        # Of few lengths, so that few buffers serve arrays of every size.
        whole = length if length < _ROUNDED_TO else -(-length // _ROUNDED_TO) * _ROUNDED_TO
        return self._buffers.take(np.dtype(np.uint8), whole)[:length].view(dtype)


class ExactWire:
    """Values travel as they are.

    Args:
        operation: ``np.add``, ``np.minimum``, ...
        divisor: what the result is divided by.
        scratch: memory for what is received.
    """

    is_exact = True

    def __init__(self, operation: np.ufunc, divisor: float, scratch: Scratch):
        self._operation, self._divisor, self._scratch = operation, divisor, scratch

    def encode(self, values: np.ndarray) -> np.ndarray:
        return values

    def place(self, values: np.ndarray) -> np.ndarray:
        return self._scratch.take(values.dtype, len(values))

    def join(self, values: np.ndarray, received: np.ndarray) -> None:
        self._operation(values, received, out=values)

    def finish(self, values: np.ndarray) -> np.ndarray:
        if self._divisor != 1.0:
            np.divide(values, values.dtype.type(self._divisor), out=values)
        return values

    def result_place(self, values: np.ndarray) -> np.ndarray:
        return values

    def take_result(self, values: np.ndarray, received: np.ndarray) -> None:
        """It was received in its place."""


class Float16Wire:
    """Float32 values that travel as float16, and are added up as float32.

    What is sent is the mean of as many values as it sums, so that it is in float16's range if they are.

    Args:
        divisor: what the sum is divided by.
        summed: how many values a sum on the way may be of.
        scratch: memory for what is sent and received.
    """

    is_exact = False

    def __init__(self, divisor: float, summed: int, scratch: Scratch):
        self._shrink, self._grow = np.float32(1 / summed), np.float32(summed)
        self._result = np.float32(1 / divisor)
        self._scratch = scratch

    def encode(self, values: np.ndarray) -> np.ndarray:
        return self._float16(values, self._shrink)

    def place(self, values: np.ndarray) -> np.ndarray:
        return self._scratch.take(np.dtype(np.float16), len(values))

    def join(self, values: np.ndarray, received: np.ndarray) -> None:
        wide = _cast(received, "float32")
        np.add(values, wide if self._grow == 1 else wide * self._grow, out=values)

    def finish(self, values: np.ndarray) -> np.ndarray:
        result = self._float16(values, self._result)
        self.take_result(values, result)  # rounded, as the others will have it
        return result

    def result_place(self, values: np.ndarray) -> np.ndarray:
        return self.place(values)

    def take_result(self, values: np.ndarray, received: np.ndarray) -> None:
        np.copyto(values, _cast(received, "float32"))

    def _float16(self, values: np.ndarray, factor: np.float32) -> np.ndarray:
        return _cast(values if factor == 1 else values * factor, "float16")


def _cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """TensorFlow's cast: NumPy takes three times as long."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        return tf.cast(values, dtype).numpy()
