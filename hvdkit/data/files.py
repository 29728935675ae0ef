"""Samples in many files: each rank reads whole ones, and finds any sample without reading those before it."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.comm import world
from hvdkit.data.plan import balanced, permutation
from hvdkit.errors import UsageError
from hvdkit.proof import agree

_MEMBERS = ("x", "y", "sample_weight")


def are_names(x: Any) -> bool:
    """Whether this is a file name, a glob, or a list of them."""
    return isinstance(x, str | os.PathLike) or (
        isinstance(x, list | tuple) and len(x) > 0 and all(isinstance(i, str | os.PathLike) for i in x)
    )


def opened(names: Any, parse: Callable | None) -> list:
    """Files looked into, by file names or globs; ``parse`` is for TFRecord files.

    Raises:
        UsageError: no such files, files of both kinds, damaged ones, or no ``parse``.
    """
    paths = _paths(names)
    kinds = {p.suffix == ".npz" for p in paths}
    if len(kinds) > 1:
        raise UsageError("Both .npz and other files: give hvd.data.shard files of one kind.")
    if kinds == {True}:
        return [_Npz(p) for p in paths]
    if parse is None:
        raise UsageError(
            f"{paths[0].name} is taken for a TFRecord file, whose records need `parse`.",
            fix="parse=a function from a batch of serialized records, a string tensor, to (x, y).",
        )
    return [_TFRecord(p) for p in paths]


def mine(files: list, parse: Callable | None, *, already_split: bool) -> Files:
    """The files of this rank, as one source; shared out by their samples, unless they are this rank's own already."""
    if already_split:
        return Files(files, files, parse)
    agree(
        "their files",
        [[f.path.name, f.samples] for f in files],
        by="hvd.data.shard",
        fix="the same files, whole, on every rank; or, where each has its own, already_split=True.",
    )
    chosen = balanced([f.samples for f in files], world.size())[world.rank()]
    return Files([files[i] for i in chosen], files, parse)


def _paths(names: Any) -> list[Path]:
    names = [names] if isinstance(names, str | os.PathLike) else list(names)
    found: list[Path] = []
    for name in map(os.fspath, names):
        matches = sorted(glob.glob(name)) or ([name] if os.path.exists(name) else [])
        if not matches:
            raise UsageError(f"No file is named {name}.", fix="check the path; on every host.")
        found += map(Path, matches)
    return found


class Files:
    """Several files as one source: samples are numbered through them.

    Args:
        files: this rank's; there may be none.
        example: some file to know the kind of samples by.
        parse: what makes samples of serialized records; None where they are arrays already.
    """

    def __init__(self, files: list, example: list, parse: Callable | None):
        self._files = files
        self._parse = parse
        self._ends = np.cumsum([f.samples for f in files]) if files else np.zeros(0, np.int64)
        self.samples = int(self._ends[-1]) if files else 0
        self._example = next((f for f in [*files, *example] if f.samples), None)
        if self._example is None:
            raise UsageError("The files hold no samples.")
        self._spec = self._example.spec()

    def state(self) -> dict[str, Any]:
        """The names and sizes of the files."""
        text = "\n".join(f"{f.path.name} {f.samples}" for f in self._files)
        return {"samples": self.samples, "sha256 of the files": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def order(self, *, shuffle: bool, seeds: tuple[int, ...]) -> Callable[[int], np.ndarray]:
        """The order of an epoch: the files in turn and the samples within each, so that one file is open at a time."""
        begins = self._ends - [f.samples for f in self._files] if self._files else []

        def of(epoch: int) -> np.ndarray:
            if not shuffle:
                return np.arange(self.samples, dtype=np.int64)
            turn = permutation(len(self._files), *seeds, epoch)
            parts = [begins[i] + permutation(self._files[i].samples, *seeds, epoch, int(i)) for i in turn]
            return np.concatenate([*parts, np.zeros(0, np.int64)])

        return of

    def take(self, rows: tf.Tensor) -> Any:
        read = tf.numpy_function(self._read, [rows], [dtype for dtype, _ in self._spec], stateful=False)
        data = [tf.ensure_shape(t, (None, *shape)) for t, (_, shape) in zip(read, self._spec, strict=True)]
        if self._parse is not None:
            return self._parse(data[0])
        return tuple(data) if len(data) > 1 else data[0]

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        if not self.samples:  # a rank without files, which weighs nothing
            return self._example.read(np.zeros(1, np.int64))
        which = np.searchsorted(self._ends, rows, side="right")
        out: list | None = None
        for number in np.unique(which):
            here = which == number
            file = self._files[number]
            parts = file.read(rows[here] - (self._ends[number] - file.samples))
            if out is None:
                out = [np.empty((len(rows), *p.shape[1:]), p.dtype) for p in parts]
            for whole, part in zip(out, parts, strict=True):
                whole[here] = part
        return out


class _Npz:
    """An .npz file with ``x``, ``y`` and ``sample_weight``, or what of them there is."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = {Path(n).stem for n in archive.namelist()}
                self.members = [m for m in _MEMBERS if m in names]
                headers = [_header(archive, m) for m in self.members]
        except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
            raise UsageError(f"{path} cannot be read as .npz: {error}.") from None
        if "x" not in self.members:
            raise UsageError(f"{path} has no array `x`; it has {', '.join(sorted(names))}.")
        lengths = {shape[0] for shape, _ in headers}
        if len(lengths) != 1:
            raise UsageError(f"The arrays of {path} have different numbers of samples: {sorted(lengths)}.")
        (self.samples,) = lengths
        self._headers = headers

    def spec(self) -> list:
        return [(tf.as_dtype(dtype), shape[1:]) for shape, dtype in self._headers]

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        return [a[rows] for a in _loaded(str(self.path), tuple(self.members))]


@functools.lru_cache(maxsize=2)  # samples are shuffled within files, so few are needed at a time
def _loaded(path: str, members: tuple[str, ...]) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return [archive[m] for m in members]


def _header(archive: zipfile.ZipFile, member: str) -> tuple[tuple, np.dtype]:
    with archive.open(f"{member}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{member} holds Python objects")
    return shape, dtype


class _TFRecord:
    """An uncompressed TFRecord file; where each record begins is found once, from the lengths alone."""

    def __init__(self, path: Path):
        self.path = path
        offsets = []
        size = path.stat().st_size
        with path.open("rb") as stream:
            at = 0
            while at < size:
                stream.seek(at)
                head = stream.read(12)
                length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else size
                if at + 16 + length > size:
                    raise UsageError(
                        f"{path} is no whole TFRecord file: the record at byte {at} does not end in it.",
                        fix="uncompressed TFRecord files; a compressed one cannot be entered in its middle.",
                    )
                offsets.append((at + 12, length))
                at += 16 + length
        self._offsets = offsets
        self.samples = len(offsets)

    def spec(self) -> list:
        return [(tf.string, ())]

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        out = np.empty(len(rows), object)
        with self.path.open("rb") as stream:
            for i in np.argsort(rows):  # in the order of the file
                at, length = self._offsets[rows[i]]
                stream.seek(at)
                out[i] = stream.read(length)
        return [out]
