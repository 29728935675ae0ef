"""Python objects as bytes: JSON for the structure, ``.npy`` for the arrays. Nothing is ever unpickled.

What comes back is of the type that was sent; what cannot come back so is refused.

>>> import numpy as np
>>> data = encode({"epoch": np.int64(3), "best": (0.5, None), "weights": {0: 1.0, 1: 2.5}, "w": np.arange(3)})
>>> back = decode(data)
>>> back["epoch"], back["best"], back["weights"], back["w"].tolist()
(np.int64(3), (0.5, None), {0: 1.0, 1: 2.5}, [0, 1, 2])
"""

from __future__ import annotations

import collections
import enum
import functools
import io
import json
import pathlib
import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Marks what is not JSON's own; a dictionary of the user's with such a key travels as pairs, like one with other keys.
_KIND, _OF = "__hvdkit_kind__", "of"
_LENGTH = struct.Struct("<Q")
# Python refuses to write out whole numbers of more than 4,300 digits in decimals.
_LONG = 10**1000
# Of the description of an array's dtype, which may have many fields.
_LENGTH_OF_HEADER = 2**24
# By these names PyTorch, JAX and TensorFlow know them; NumPy's file format does not.
_ML_DTYPES = "ml_dtypes"
_JSON = {type(None), bool, float, str}


class _Kind(NamedTuple):
    """How a type travels: as the parts it is made of, which may be anything that travels."""

    parts: Callable[[Any], Any]
    made: Callable[[Any], Any]


# What a dictionary is made of again, from pairs; and what may be made in one by default.
_DICTS: dict[type, Callable[[list], Any]] = {
    dict: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.Counter: lambda pairs: collections.Counter(dict(pairs)),
    collections.defaultdict: lambda parts: collections.defaultdict(_FACTORIES.get(parts[0]), parts[1]),
}
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (list, dict, set, int, float, str, bool, tuple)}
_BYTES = _Kind(lambda value: np.frombuffer(value, np.uint8), lambda array: array.tobytes())
_TYPES: dict[type, _Kind] = {
    tuple: _Kind(list, tuple),
    collections.deque: _Kind(lambda value: [list(value), value.maxlen], lambda parts: collections.deque(*parts)),
    set: _Kind(list, set),
    frozenset: _Kind(list, frozenset),
    int: _Kind(hex, lambda text: int(text, 16)),
    complex: _Kind(lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    range: _Kind(lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    slice: _Kind(lambda value: [value.start, value.stop, value.step], lambda parts: slice(*parts)),
    bytes: _BYTES,
    bytearray: _Kind(_BYTES.parts, bytearray),
    np.str_: _Kind(str, np.str_),
    np.bytes_: _Kind(bytes, np.bytes_),
    **{kind: _Kind(str, kind) for kind in (type(pathlib.Path()), type(pathlib.PurePath()))},
}
_CLASSES = ("enum", "namedtuple")
_MADE = {kind.__name__: converter.made for kind, converter in _TYPES.items()}
_MADE |= {kind.__name__: made for kind, made in _DICTS.items()}


def encode(value: Any) -> bytes:
    """An object as bytes.

    Args:
        value: None, bool, int, float, complex, str, bytes, paths, ranges, lists, tuples and named tuples, sets,
            dictionaries of any keys, members of an enumeration, NumPy arrays and scalars; and these in these. Classes
            of named tuples and enumerations must be found by their names in a module.

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
    """What ``encode`` was given.

    Raises:
        TypeError: it holds an object of a class that this process has not imported.
    """
    parts, at = [], 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        parts.append(data[at : at + length])
        at += length
    read = functools.partial(np.lib.format.read_array, allow_pickle=False, max_header_size=_LENGTH_OF_HEADER)
    arrays = [read(io.BytesIO(part)) for part in parts[1:]]
    return json.loads(parts[0], object_hook=lambda d: _made(d, arrays) if _KIND in d else d)


def has_classes(data: bytes) -> bool:
    """Whether ``decode`` must look up classes for these bytes, which may not be there."""
    (length,) = _LENGTH.unpack_from(data)
    text = data[_LENGTH.size : _LENGTH.size + length]
    return any(f'"{_KIND}": "{kind}"'.encode() in text for kind in _CLASSES)


def _plain(value: Any, arrays: list[np.ndarray], where: str) -> Any:
    """A value as JSON has it; its arrays are put into the list."""
    kind = type(value)
    if value is None or kind in (bool, float, str) or (kind is int and abs(value) < _LONG):
        return value
    if kind is list:
        kinds = {*map(type, value)}
        if kinds <= _JSON or (kinds == {int} and min(value) > -_LONG and max(value) < _LONG):  # long lists of numbers
            return value
        return [_plain(item, arrays, f"{where}[{i}]") for i, item in enumerate(value)]
    if kind is dict and _KIND not in value and all(type(key) is str for key in value):
        return {key: _plain(item, arrays, f"{where}[{key!r}]") for key, item in value.items()}
    return _special(value, arrays, where)


def _pairs(value: dict, arrays: list[np.ndarray], where: str) -> list:
    """The keys and values of a dictionary; of one with a default also what makes it."""
    name = lambda key: f"{where}[{key!r}]"
    pairs = [[_plain(k, arrays, f"a key of {where}"), _plain(v, arrays, name(k))] for k, v in value.items()]
    if type(value) is not collections.defaultdict:
        return pairs
    factory = value.default_factory
    if factory is not None and _FACTORIES.get(getattr(factory, "__name__", "")) is not factory:
        raise TypeError(f"{where} is a defaultdict of {factory!r}, which does not travel: send dict(value).")
    return [factory and factory.__name__, pairs]


def _special(value: Any, arrays: list[np.ndarray], where: str) -> dict:
    """What JSON does not have, with its kind; of a class of the user's that is looked up where it arrives."""
    kind = type(value)
    if kind in _DICTS:
        return _marked(kind.__name__, _pairs(value, arrays, where))
    if kind in _TYPES:
        return _marked(kind.__name__, _plain(_TYPES[kind].parts(value), arrays, where))
    if isinstance(value, np.generic) or kind in (np.ndarray, np.memmap):
        return _array(np.asarray(value), arrays, where, scalar=isinstance(value, np.generic))
    if _imported_class(kind.__module__, kind.__qualname__) is kind:
        if isinstance(value, enum.Enum):  # several flags together have no name of their own
            by_name = value.name in kind.__members__
            made_of = value.name if by_name else _plain(value.value, arrays, f"{where}.value")
            return _marked("enum", [kind.__module__, kind.__qualname__, by_name, made_of])
        if isinstance(value, tuple) and hasattr(kind, "_make"):
            items = [_plain(item, arrays, f"{where}.{n}") for n, item in zip(kind._fields, value, strict=True)]
            return _marked("namedtuple", [kind.__module__, kind.__qualname__, list(kind._fields), items])
    elif isinstance(value, enum.Enum) or (isinstance(value, tuple) and hasattr(kind, "_make")):
        raise TypeError(
            f"{where} is a {kind.__name__}, a class that is not found as {kind.__module__}.{kind.__qualname__}: define "
            "it at the top of a module."
        )
    bases = [base.__name__ for base in (dict, list, tuple, set, str, int, float, np.ndarray) if isinstance(value, base)]
    raise TypeError(
        f"{where} is a {kind.__name__}. Objects travel between ranks as JSON and NumPy arrays, never pickled: "
        + (f"send it as a plain {bases[0]}." if bases else "send its numbers, strings, lists, dictionaries and arrays.")
    )


def _array(array: np.ndarray, arrays: list[np.ndarray], where: str, *, scalar: bool) -> dict:
    name, known = None, array.dtype
    if known.type.__module__ == _ML_DTYPES:  # bfloat16 and the like, which a file would call raw bytes
        name, array = known.name, array.view(f"u{known.itemsize}")
    elif known.hasobject:
        raise TypeError(f"{where} is an array of Python objects; only arrays of numbers and strings can be sent.")
    elif np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(known)) != known:
        raise TypeError(f"{where} is an array of dtype {known}, which does not travel: send its parts.")
    arrays.append(array)
    return _marked("scalar" if scalar else "array", [len(arrays) - 1, name])


def _marked(kind: str, parts: Any) -> dict:
    return {_KIND: kind, _OF: parts}


def _made(marked: dict, arrays: list[np.ndarray]) -> Any:
    kind, parts = marked[_KIND], marked[_OF]
    if kind in ("array", "scalar"):
        number, name = parts
        array = arrays[number] if name is None else arrays[number].view(_ml_dtype(name))
        return array[()] if kind == "scalar" else array
    if kind in _CLASSES:
        module, qualified, *made_of = parts
        known = _imported_class(module, qualified)
        if known is None:
            raise TypeError(f"A {module}.{qualified} came from another rank: import {module} on this one, too.")
        if kind == "enum":
            by_name, value = made_of
            return known[value] if by_name else known(value)
        fields, items = made_of
        if getattr(known, "_fields", None) != tuple(fields):
            raise TypeError(f"A {module}.{qualified} came from another rank, where it has the fields {fields}.")
        return known._make(items)
    return _MADE[kind](parts)


def _imported_class(module: str, qualified: str) -> Any:
    """A class of a module that is imported already; None if there is none. Nothing is imported for received data."""
    there: Any = sys.modules.get(module)
    for name in qualified.split("."):
        there = getattr(there, name, None)
    return there if isinstance(there, type) else None


def _ml_dtype(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name))
