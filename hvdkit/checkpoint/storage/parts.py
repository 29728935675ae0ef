"""A part's file: a safetensors file, written here and checked here before safetensors reads it."""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.format import FOREIGN, DamagedCheckpointError, damage, parse_json
from hvdkit.errors import UsageError

MAX_HEADER = 16 * 2**20

# NumPy's name -> that of safetensors. Nothing else is read or written.
_TYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}
_NAMES = {code: name for name, code in _TYPES.items()}
_STORED_AS = {1: "uint8", 2: "uint16"}
# How many pieces writing may be ahead of hashing.
_AHEAD = 8


@dataclass(frozen=True)
class Tensor:
    """What a header says of one tensor: its type as stored, its shape, and where its bytes are in the data."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Written:
    """What was written: the file's length, its sha256, and the true types of tensors NumPy does not know."""

    bytes: int
    sha256: str
    dtypes: dict[str, str]


def check_arrays(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays, as they can be written.

    Raises:
        UsageError: a name or a type that the format has not.

    Example:

    >>> check_arrays({"kernel": np.zeros(2, complex)})
    Traceback (most recent call last):
    hvdkit.errors.UsageError: A checkpoint cannot hold the type complex128 of 'kernel'.
      What to do: save it as bool, an integer, float16, bfloat16, float8, float32 or float64.
    """
    checked = {}
    for name, value in arrays.items():
        if not isinstance(name, str) or name == "__metadata__" or not _is_text(name):
            raise UsageError(f"{name!r} cannot be the name of a tensor in a checkpoint.")
        array = np.asarray(value)
        if array.dtype.name not in _TYPES and FOREIGN.get(array.dtype.name) != array.dtype.itemsize:
            raise UsageError(
                f"A checkpoint cannot hold the type {array.dtype} of {name!r}.",
                fix="save it as bool, an integer, float16, bfloat16, float8, float32 or float64.",
            )
        checked[name] = array
    return checked


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_part(path: Path, arrays: Mapping[str, Any]) -> Written:
    """Write arrays to a new file and wait until they are on the disk, without a copy of them.

    Only an array that is not contiguous, or not little-endian, is copied, while it is written.

    Raises:
        UsageError: arrays that the format cannot hold; nothing was written.
        OSError: the disk's own.
    """
    checked = check_arrays(arrays)
    # Big elements first, as safetensors itself does it: then each one is where its type may be.
    order = sorted(checked, key=lambda name: (-checked[name].dtype.itemsize, name))
    header = _header({name: checked[name] for name in order})
    descriptor = disk.create(path)
    try:
        sha256 = _write_and_hash(descriptor, _pieces(header, [checked[name] for name in order]))
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)
    size = len(header) + sum(array.nbytes for array in checked.values())
    foreign = {name: checked[name].dtype.name for name in sorted(checked) if checked[name].dtype.name in FOREIGN}
    return Written(size, sha256, foreign)


def _write_and_hash(descriptor: int, pieces: Iterable[memoryview]) -> str:
    """Hashing takes about as long as writing, and the disk longer than the kernel: all three go side by side."""
    digest, offset = hashlib.sha256(), 0
    with ThreadPoolExecutor(1) as hasher:
        waiting: deque[Future] = deque()
        for piece in pieces:
            waiting.append(hasher.submit(digest.update, piece))
            disk.write(descriptor, piece)
            if len(piece) == disk.CHUNK:
                disk.start_writing_back(descriptor, offset, len(piece))
            offset += len(piece)
            if len(waiting) > _AHEAD:
                waiting.popleft().result()
        for hashed in waiting:
            hashed.result()
    return digest.hexdigest()


def _header(arrays: dict[str, np.ndarray]) -> bytes:
    """The length and the JSON, padded so that the data begins at a multiple of 8."""
    entries, end = {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = _TYPES.get(array.dtype.name) or _TYPES[_STORED_AS[array.dtype.itemsize]]
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise UsageError(f"The names and shapes of one part take {len(text)} bytes, more than {MAX_HEADER}.")
    return len(text).to_bytes(8, "little") + text


def _pieces(header: bytes, arrays: list[np.ndarray]) -> Iterator[memoryview]:
    yield memoryview(header)
    for array in arrays:
        if array.dtype.name in _TYPES:
            plain = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        else:
            plain = np.asarray(array, order="C")
        data = plain.reshape(-1).view(np.uint8)
        for start in range(0, len(data), disk.CHUNK):
            yield data[start : start + disk.CHUNK].data


def read_header(path: Path, size: int) -> dict[str, Tensor]:
    """What a part's file says of its tensors; every byte of it belongs to exactly one.

    Args:
        path: the file.
        size: how long it must be.

    Raises:
        DamagedCheckpointError: it is not so.
    """
    with damage(path), disk.reading(path) as (descriptor, facts):
        if facts.st_size != size:
            raise DamagedCheckpointError(path, f"it has {facts.st_size} bytes, but the manifest says {size}")
        length = int.from_bytes(disk.read_bytes(descriptor, 8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise DamagedCheckpointError(path, f"its header claims {length} bytes")
        text = disk.read_bytes(descriptor, length)
    entries = parse_json(text, path, object_pairs_hook=_once)
    if not isinstance(entries, dict):
        raise DamagedCheckpointError(path, "its header is not an object")
    tensors = {}
    for name, entry in entries.items():
        tensor = _tensor(entry)
        if tensor is None or not _is_text(name):
            raise DamagedCheckpointError(path, f"its header describes the tensor {ascii(name)[:100]} wrongly")
        tensors[name] = tensor
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            raise DamagedCheckpointError(path, f"the bytes of {ascii(name)[:100]} overlap others or leave a gap")
        end = tensor.end
    if end != size - 8 - length:
        raise DamagedCheckpointError(path, "it is longer or shorter than its tensors")
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a key that stands there twice."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands there twice")
    return content


def _tensor(entry: Any) -> Tensor | None:
    """One entry of a header; None where anything about it is wrong."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return None
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _NAMES or not _are_counts(shape) or not _are_counts(offsets):
        return None
    kind = np.dtype(_NAMES[dtype])
    # NumPy's own limits; a shape may be huge and empty at once.
    if len(shape) > 32 or any(length >= 2**62 for length in shape) or len(offsets) != 2:
        return None
    begin, end = offsets
    return Tensor(kind, tuple(shape), begin, end) if end - begin == math.prod(shape) * kind.itemsize else None


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)
