"""``.npz`` files, whose arrays are samples."""

from __future__ import annotations

import functools
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from hvdkit.data import dtypes
from hvdkit.errors import UsageError

MEMBERS = ("x", "y", "sample_weight")
_UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, struct.error, ValueError, KeyError, EOFError, RuntimeError)
_END = struct.Struct("<4s4H2LH")  # of a zip file: among others, how many members it has


class Npz:
    """An .npz file with ``x``, ``y`` and ``sample_weight``, or what of them there is.

    Args:
        path: of the file.

    Raises:
        UsageError: it cannot be read, has no ``x``, or an array that is none of samples.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            stat = path.stat()
            with zipfile.ZipFile(path) as archive:
                _check_members(archive, path)
                names = {Path(n).stem for n in archive.namelist()}
                self.members = tuple(m for m in MEMBERS if m in names)
                headers = [_header(archive, m) for m in self.members]
        except _UNREADABLE as error:
            raise UsageError(f"{path} cannot be read as .npz: {error}.") from None
        if "x" not in self.members:
            raise UsageError(f"{path} has no array `x`; it has {', '.join(sorted(names))}.")
        if self.members == ("x", "sample_weight"):
            raise UsageError(f"{path} has `sample_weight` but no `y`, for whose loss it would be.", fix="save y too.")
        for member, (shape, _) in zip(self.members, headers, strict=True):
            if not shape:
                raise UsageError(f"`{member}` of {path} has no axis of samples: it is a single value.")
        lengths = {shape[0] for shape, _ in headers}
        if len(lengths) != 1:
            raise UsageError(f"The arrays of {path} have different numbers of samples: {sorted(lengths)}.")
        (self.samples,) = lengths
        self._spec = {
            member: (dtypes.tensorflow_dtype(dtype, f"`{member}` of {path}"), shape[1:])
            for member, (shape, dtype) in zip(self.members, headers, strict=True)
        }
        self._stat = (stat.st_mtime_ns, stat.st_size)

    def spec(self) -> dict:
        """The dtype and the shape of a sample of each array, by its name."""
        return self._spec

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        """The samples with these numbers.

        Raises:
            UsageError: the file cannot be read.
        """
        return [array[rows] for array in _loaded(str(self.path), self.members, self._stat)]


@functools.lru_cache(maxsize=2)  # samples are shuffled within files, so few are needed at a time
def _loaded(path: str, members: tuple[str, ...], _stat: tuple[int, int]) -> list[np.ndarray]:
    try:
        with np.load(os.fspath(path), allow_pickle=False) as archive:
            return [dtypes.native(archive[m]) for m in members]
    except _UNREADABLE as error:
        raise UsageError(f"{path} cannot be read as .npz: {error}.", fix="write the file again.") from error


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Find out whether a member was lost by damage to its name or to the list: an ``x`` without ``y`` is a file too."""
    for member in archive.infolist():
        archive.open(member).close()  # compares its name in the list with the one beside it
    with path.open("rb") as stream:
        stream.seek(-_END.size, os.SEEK_END)
        signature, _, _, _, members, *_ = _END.unpack(stream.read())
    if signature == b"PK\5\6" and members not in (len(archive.infolist()), 0xFFFF):
        raise zipfile.BadZipFile(f"it has {members} arrays and lists {len(archive.infolist())}")


def _header(archive: zipfile.ZipFile, member: str) -> tuple[tuple, np.dtype]:
    with archive.open(f"{member}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size = stream.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
    if dtype.hasobject:
        raise ValueError(f"{member} holds Python objects")
    if size != archive.getinfo(f"{member}.npy").file_size:  # its checksum is known only when it is read
        raise ValueError(f"{member} does not have the number of bytes that its shape {shape} needs")
    return shape, dtype
