"""Samples in many files: each rank reads whole ones, and finds any sample without reading those before it."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.comm import world
from hvdkit.comm.consistency import assert_same_on_all_ranks, raise_on_any_rank
from hvdkit.data.epoch_plan import balanced, permutation
from hvdkit.data.npz import Npz
from hvdkit.data.records import TFRecord
from hvdkit.errors import UsageError


def are_file_names(x: Any) -> bool:
    """Whether this is a file name, a glob, or a list of them."""
    return isinstance(x, str | os.PathLike) or (
        isinstance(x, list | tuple) and len(x) > 0 and all(isinstance(i, str | os.PathLike) for i in x)
    )


def open_files(names: Any, parse: Callable | None) -> list:
    """Open files by their names or globs; ``parse`` is for TFRecord files.

    Raises:
        UsageError: no such files, files of both kinds, damaged ones, or no ``parse``.
    """
    paths = _paths(names)
    kinds = {p.suffix == ".npz" for p in paths}
    if len(kinds) > 1:
        raise UsageError("Both .npz and other files: give hvd.data.shard files of one kind.")
    if kinds == {True}:
        return _alike([Npz(p) for p in paths])
    if parse is None:
        raise UsageError(
            f"{paths[0].name} is taken for a TFRecord file, whose records need `parse`.",
            fix="parse=a function from a batch of serialized records, a string tensor, to (x, y).",
        )
    return [TFRecord(p) for p in paths]


def _alike(files: list[Npz]) -> list[Npz]:
    """The same files, all of whose arrays are of the dtypes and shapes of the first one's: a batch may span files."""
    filled = [f for f in files if f.samples]
    for file in filled[1:]:
        own_spec, first = file.spec(), filled[0].spec()
        if list(own_spec) != list(first):
            raise UsageError(
                f"{file.path} has the arrays {', '.join(own_spec)}, but {filled[0].path} {', '.join(first)}.",
                fix="the same arrays in every file.",
            )
        for name, (dtype, shape) in own_spec.items():
            if (dtype, shape) != first[name]:
                raise UsageError(
                    f"`{name}` of {file.path} has samples of {dtype.name} and shape {shape}, but that of "
                    f"{filled[0].path} of {first[name][0].name} and shape {first[name][1]}.",
                    fix="the same dtype and shape in every file: np.savez(path, x=x.astype(...)).",
                )
    return files


def own_files(files: list, parse: Callable | None, *, presharded: bool) -> Files:
    """The files of this rank, as one source; shared out by their samples, unless they are this rank's own already."""
    if presharded:
        own = raise_on_any_rank("take its files", lambda: Files(files, files, parse), by="hvd.data.shard")
        kind = [[name, dtype.name, list(map(int, shape))] for name, (dtype, shape) in own.example.spec().items()]
        fix = "the same arrays, dtypes and shapes in the files of every rank."
        assert_same_on_all_ranks("what their files hold", kind, by="hvd.data.shard", fix=fix)
        return own
    assert_same_on_all_ranks(
        "their files",
        [[f.path.name, f.samples] for f in files],
        by="hvd.data.shard",
        fix="pass the same complete files on every rank, or, if each rank has its own, presharded=True.",
    )
    chosen = balanced([f.samples for f in files], world.size())[world.rank()]
    return Files([files[i] for i in chosen], files, parse)


def _paths(names: Any) -> list[Path]:
    names = [names] if isinstance(names, str | os.PathLike) else list(names)
    paths: list[Path] = []
    for name in map(os.fspath, names):
        matches = sorted(glob.glob(name)) or ([name] if os.path.exists(name) else [])
        if not matches:
            raise UsageError(f"No file is named {name}.", fix="check the path; on every host.")
        paths += map(Path, matches)
    return paths


class Files:
    """Several files as one source: samples are numbered through them.

    Args:
        files: this rank's; there may be none.
        example: some file to know the kind of samples by.
        parse: what makes samples of serialized records; None where they are arrays already.

    Attributes:
        example: a file with samples.
        failure: why samples could not be read, when they could not.
    """

    def __init__(self, files: list, example: list, parse: Callable | None):
        self._files = files
        self._parse = parse
        self._ends = np.cumsum([f.samples for f in files]) if files else np.zeros(0, np.int64)
        self.samples = int(self._ends[-1]) if files else 0
        self.example = next((f for f in [*files, *example] if f.samples), None)
        if self.example is None:
            raise UsageError("The files hold no samples.")
        self._spec = list(self.example.spec().values())
        self.failure: Exception | None = None

    def state(self) -> dict[str, Any]:
        """The names and sizes of the files."""
        text = "\n".join(f"{f.path.name} {f.samples}" for f in self._files)
        return {"samples": self.samples, "sha256 of the files": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def order(self, *, shuffle: bool, seeds: tuple[int, ...]) -> Callable[[int], np.ndarray]:
        """The order of an epoch: a permutation of the files, and of the samples within each file, so that one file is
        open at a time."""
        begins = self._ends - [f.samples for f in self._files] if self._files else []

        def order_of(epoch: int) -> np.ndarray:
            if not shuffle:
                return np.arange(self.samples, dtype=np.int64)
            file_order = permutation(len(self._files), *seeds, epoch)
            parts = [begins[i] + permutation(self._files[i].samples, *seeds, epoch, int(i)) for i in file_order]
            return np.concatenate([*parts, np.zeros(0, np.int64)])

        return order_of

    def take(self, rows: tf.Tensor) -> Any:
        read = tf.numpy_function(self._read, [rows], [dtype for dtype, _ in self._spec], stateful=False)
        data = [tf.ensure_shape(t, (None, *shape)) for t, (_, shape) in zip(read, self._spec, strict=True)]
        if self._parse is not None:
            return self._parse(data[0])
        return tuple(data) if len(data) > 1 else data[0]

    def forget_failure(self) -> None:
        """Begin anew."""
        self.failure = None

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        try:
            return self._gather(rows)
        except Exception as error:
            self.failure = error  # TensorFlow raises one of its own, which holds this one's traceback as text
            raise

    def _gather(self, rows: np.ndarray) -> list[np.ndarray]:
        if not self.samples:  # a rank without files, which weighs nothing
            return self.example.read(np.zeros(1, np.int64))
        which = np.searchsorted(self._ends, rows, side="right")
        out: list | None = None
        for number in np.unique(which):
            in_file = which == number
            file = self._files[number]
            parts = file.read(rows[in_file] - (self._ends[number] - file.samples))
            if out is None:
                out = [np.empty((len(rows), *p.shape[1:]), p.dtype) for p in parts]
            for whole, part in zip(out, parts, strict=True):
                whole[in_file] = part
        return out
