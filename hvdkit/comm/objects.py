"""Python objects as bytes: JSON for the structure, ``.npy`` for the arrays. Nothing is ever unpickled.

>>> import numpy as np
>>> data = encode({"epoch": 3, "best": [0.5, None], "w": np.arange(3)})
>>> back = decode(data)
>>> back["epoch"], back["best"], back["w"].tolist()
(3, [0.5, None], [0, 1, 2])
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np

# Stands in the JSON where an array was; a user's own dictionary with this key is refused rather than misread.
_ARRAY = "__hvdkit_array__"
_LENGTH = struct.Struct("<Q")


def encode(value: Any) -> bytes:
    """JSON-like data (None, bool, int, float, str, list, tuple, dict with string keys) and NumPy arrays as bytes.

    Tuples come back as lists, NumPy scalars as arrays without axes.

    Raises:
        TypeError: something else is in it; the message says where.
    """
    arrays: list[np.ndarray] = []
    text = json.dumps(_plain(value, arrays, "object")).encode()
    parts = [text]
    for array in arrays:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, allow_pickle=False)
        parts.append(buffer.getvalue())
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def decode(data: bytes) -> Any:
    """What ``encode`` was given."""
    parts, at = [], 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        parts.append(data[at : at + length])
        at += length
    arrays = [np.lib.format.read_array(io.BytesIO(part), allow_pickle=False) for part in parts[1:]]
    return json.loads(parts[0], object_hook=lambda d: arrays[d[_ARRAY]] if _ARRAY in d else d)


def _plain(value: Any, arrays: list[np.ndarray], where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError(f"{where} is an array of Python objects; only arrays of numbers and strings can be sent.")
        arrays.append(array)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key == _ARRAY:
                raise TypeError(f"{where} has the key {key!r}; keys must be strings, and not {_ARRAY!r}.")
        return {key: _plain(item, arrays, f"{where}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"{where} is a {type(value).__name__}. Objects travel between ranks as JSON and NumPy arrays, never pickled: "
        "send its numbers, strings, lists, dictionaries and arrays instead."
    )
