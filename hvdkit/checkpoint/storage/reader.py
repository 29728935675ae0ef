"""Reading one checkpoint: one tensor at a time, and nothing before it was checked."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.format import (
    FOREIGN,
    MANIFEST,
    MAX_MANIFEST,
    DamagedCheckpointError,
    Manifest,
    Part,
    damage,
    parse_manifest,
    read_limited,
    step_of,
)
from hvdkit.checkpoint.storage.parts import Tensor, read_header
from hvdkit.errors import UsageError

_MOST_MAPPED = 2**26


class Checkpoint:
    """A checkpoint's directory whose manifest is whole and whose files have the lengths that it says.

    Args:
        path: the directory, by its name of a step or any other.

    Attributes:
        path: the directory.
        manifest: a ``Manifest``.

    Raises:
        DamagedCheckpointError: the manifest, or a file's length, is not what was written. Hashes of parts are not
            looked at: that is ``verify()``.

    Example:

    >>> import tempfile
    >>> from hvdkit.checkpoint.storage.store import Store
    >>> store = Store(tempfile.mkdtemp())
    >>> writer = store.writer(step=120, run_id="a")
    >>> _ = writer.write("common", {"kernel": np.ones((2, 3), "float32")}, {"optimizer": "adam"})
    >>> path = writer.commit(["common"], epoch=1, world_size=2, state={"metrics": {"loss": 0.5}})
    >>> checkpoint = Checkpoint(path).verify()
    >>> checkpoint.manifest.step, checkpoint.names("common"), checkpoint.meta("common")
    (120, ['kernel'], {'optimizer': 'adam'})
    >>> checkpoint.shape_dtype("common", "kernel"), float(checkpoint.get("common", "kernel").sum())
    (((2, 3), 'float32'), 6.0)
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        with damage(self.path):
            mode = self.path.lstat().st_mode
        if not stat.S_ISDIR(mode):
            what = "it is a symbolic link" if stat.S_ISLNK(mode) else "it is not a directory"
            raise DamagedCheckpointError(self.path, what)
        manifest = self.path / MANIFEST
        self.manifest: Manifest = parse_manifest(read_limited(manifest, MAX_MANIFEST), manifest)
        named_step = step_of(self.path.name)
        if named_step not in (None, self.manifest.step):
            raise DamagedCheckpointError(manifest, f"it is of step {self.manifest.step}, not of {named_step}")
        for part in self.manifest.parts.values():
            self._check_length(part)
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self._open: dict[str, Any] = {}
        self._mapped: dict[str, int] = {}

    def _check_length(self, part: Part) -> None:
        path = self.path / part.file
        with damage(path), disk.reading(path) as (_, facts):
            if facts.st_size != part.bytes:
                raise DamagedCheckpointError(path, f"it has {facts.st_size} bytes, but the manifest says {part.bytes}")

    def verify(self) -> Checkpoint:
        """Check every byte of every part, in pieces.

        Returns:
            This checkpoint.

        Raises:
            DamagedCheckpointError: one is not what was written; the message names its file.
        """
        for name, part in self.manifest.parts.items():
            path = self.path / part.file
            self._header(name)  # first: what a file claims is cheap to refuse
            with damage(path):
                sha256 = disk.sha256(path)
            if sha256 != part.sha256:
                raise DamagedCheckpointError(path, "its sha256 is not the one in the manifest")
        return self

    @property
    def bytes(self) -> int:
        """The length of all its parts."""
        return sum(part.bytes for part in self.manifest.parts.values())

    def meta(self, part: str) -> dict[str, Any]:
        """What was saved beside a part's arrays."""
        return self._part(part).meta

    def names(self, part: str) -> list[str]:
        """The names of a part's tensors, sorted.

        Raises:
            UsageError: there is no such part.
            DamagedCheckpointError: its file is not what was written.
        """
        return sorted(self._header(part))

    def shape_dtype(self, part: str, name: str) -> tuple[tuple[int, ...], str]:
        """A tensor's shape and the name of its true type, without reading it."""
        tensor = self._tensor(part, name)
        return tensor.shape, self._part(part).dtypes.get(name, tensor.dtype.name)

    def get(self, part: str, name: str) -> np.ndarray:
        """One tensor, read from the disk.

        A type of ``ml_dtypes`` comes back as what it is; where that package is missing, as unsigned integers.

        Raises:
            UsageError: there is no such part or tensor.
            DamagedCheckpointError: the file is not what was written.
        """
        path = self.path / self._part(part).file
        tensor = self._tensor(part, name)
        try:
            with damage(path):
                array = self._file(part, tensor.end - tensor.begin).get_tensor(name)
        except SafetensorError as error:
            raise DamagedCheckpointError(path, f"safetensors cannot read it: {error}") from error
        if array.shape != tensor.shape or array.dtype != tensor.dtype:
            raise DamagedCheckpointError(path, f"{name} is not what its header says")
        foreign = self._part(part).dtypes.get(name)
        return array if foreign is None else _as_foreign(array, foreign)

    def _file(self, part: str, size: int) -> Any:
        """A part's file, opened anew now and then: what was read of it stays mapped, and counts as memory."""
        if part not in self._open or self._mapped[part] > _MOST_MAPPED:
            self._open[part] = safe_open(str(self.path / self._part(part).file), framework="np")
            self._mapped[part] = 0
        self._mapped[part] += size
        return self._open[part]

    def _part(self, part: str) -> Part:
        if part not in self.manifest.parts:
            known = ", ".join(sorted(self.manifest.parts))
            raise UsageError(f"{self.path} has no part {part!r}; it has {known}.")
        return self.manifest.parts[part]

    def _tensor(self, part: str, name: str) -> Tensor:
        if name not in self._header(part):
            raise UsageError(f"{self.path / self._part(part).file} has no tensor {name!r}.")
        return self._header(part)[name]

    def _header(self, part: str) -> dict[str, Tensor]:
        """What a part's file says of its tensors, read once."""
        if part not in self._tensors:
            entry = self._part(part)
            path = self.path / entry.file
            tensors = read_header(path, entry.bytes)
            for name, foreign in entry.dtypes.items():
                stored = tensors[name].dtype if name in tensors else None
                if stored is None or stored.kind != "u" or stored.itemsize != FOREIGN[foreign]:
                    raise DamagedCheckpointError(path, f"its tensor {ascii(name)[:100]} is not stored as {foreign} is")
            self._tensors[part] = tensors
        return self._tensors[part]


def _as_foreign(array: np.ndarray, name: str) -> np.ndarray:
    try:
        import ml_dtypes
    except ImportError:
        return array
    dtype = getattr(ml_dtypes, name, None)  # an old ml_dtypes has not all of them
    return array if dtype is None else array.view(dtype)
