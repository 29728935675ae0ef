"""A disk that loses its power: what POSIX promises after an fsync stays, of the rest any part may.

``Recorder`` keeps the operations of a program. ``state_after`` replays them on a model of the disk, in which a file has
the bytes that were synced and those that were not, and a directory has names that were synced and changes that were
not. A loss of power keeps an arbitrary part of what was not synced.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.common import Kernel

BLOCK = 512  # smaller than a disk's, as the files are


class Recorder(Kernel):
    """Records each operation with what the model needs of it."""

    def __init__(self, root: Path):
        super().__init__(lambda *_: None)
        self.root = root
        self.events: list[tuple] = []

    def _name(self, path) -> str:
        return os.path.relpath(path, self.root)

    def open(self, path, flags, mode=0o777):
        """A file that is made or emptied, or a directory."""
        descriptor = self._real.open(path, flags, mode)
        kind = "create" if flags & os.O_TRUNC else "open"
        self.events.append((kind, self._name(path), descriptor))
        return descriptor

    def write(self, descriptor, data):
        """Bytes at the end of a file."""
        data = bytes(data[:1024])  # short writes: more moments, and the loop is tested
        written = self._real.write(descriptor, data)
        self.events.append(("write", descriptor, data[:written]))
        return written

    def fsync(self, descriptor):
        """Of a file or a directory."""
        self._real.fsync(descriptor)
        self.events.append(("fsync", descriptor))

    def rename(self, source, target):
        """Within one directory."""
        assert Path(source).parent == Path(target).parent
        self._real.rename(source, target)
        self.events.append(("rename", self._name(source), self._name(target)))

    def exchange(self, one, other):
        """Two names of one directory, in one step."""
        assert Path(one).parent == Path(other).parent
        self._real.exchange(one, other)
        self.events.append(("exchange", self._name(one), self._name(other)))

    def mkdir(self, path, *mode):
        """A directory."""
        self._real.mkdir(path, *mode)
        self.events.append(("mkdir", self._name(path)))

    def unlink(self, path):
        """A file."""
        self._real.unlink(path)
        self.events.append(("unlink", self._name(path)))

    def rmdir(self, path):
        """A directory."""
        self._real.rmdir(path)
        self.events.append(("unlink", self._name(path)))


@dataclass
class File:
    """A file: the bytes that are safe, and all of them."""

    safe: bytes = b""
    data: bytes = b""


@dataclass
class Directory:
    """A directory: the names that are safe, all of them, and the changes from the one to the other."""

    safe: dict = field(default_factory=dict)
    names: dict = field(default_factory=dict)
    changes: list = field(default_factory=list)

    def change(self, *change) -> None:
        """Make a change that is not safe yet."""
        self.changes.append(change)
        _apply(self.names, change)

    def sync(self) -> None:
        """All changes are safe."""
        self.safe, self.changes = dict(self.names), []


def _apply(names: dict, change: tuple) -> None:
    """One change of a directory: (the name that goes or None, the name that comes or None, what it is the name of), or
    two names that are exchanged."""
    if change[0] == "exchange":
        _, one, other = change
        if one in names and other in names:
            names[one], names[other] = names[other], names[one]
        return
    gone, come, what = change
    if gone is not None and names.get(gone) is what:
        del names[gone]
    if come is not None:
        names[come] = what


def state_after(events: list[tuple]) -> Directory:
    """The disk after these operations."""
    root = Directory()
    descriptors = {}

    def walk(name):
        found = root
        for word in Path(name).parts:
            found = found.names[word]
        return found

    for kind, *words in events:
        name = Path(words[0]) if isinstance(words[0], str) else None
        if kind == "create":
            parent = walk(name.parent)
            if name.name not in parent.names:
                parent.change(None, name.name, File())
            else:
                parent.names[name.name].data = b""
            descriptors[words[1]] = parent.names[name.name]
        elif kind == "open":
            descriptors[words[1]] = walk(name)
        elif kind == "write":
            descriptors[words[0]].data += words[1]
        elif kind == "fsync":
            synced = descriptors[words[0]]
            if isinstance(synced, Directory):
                synced.sync()
            else:
                synced.safe = synced.data
        elif kind == "rename":
            parent = walk(name.parent)
            parent.change(name.name, Path(words[1]).name, parent.names[name.name])
        elif kind == "exchange":
            walk(name.parent).change("exchange", name.name, Path(words[1]).name)
        elif kind == "mkdir":
            walk(name.parent).change(None, name.name, Directory())
        else:
            parent = walk(name.parent)
            parent.change(name.name, None, parent.names[name.name])
    return root


def build(directory: Directory, path: Path, chance: random.Random) -> None:
    """Make what is left of the model after a loss of power: a real directory."""
    path.mkdir()
    names = dict(directory.safe)
    keep = chance.choice([0.0, 0.5, 0.9, 1.0])
    for change in directory.changes:
        if chance.random() < keep:
            _apply(names, change)
    for name, what in names.items():
        if isinstance(what, Directory):
            build(what, path / name, chance)
        else:
            (path / name).write_bytes(_bytes_left(what, chance))


def _bytes_left(file: File, chance: random.Random) -> bytes:
    """What is left of a file: of what was not synced nothing, a beginning, or all with some blocks zero or foreign."""
    if file.safe == file.data:
        return file.data
    how = chance.choice(["safe", "prefix", "blocks", "all"])
    if how == "safe":
        return file.safe
    if how == "prefix":
        return file.data[: chance.randrange(len(file.data) + 1)]
    left = bytearray(file.data)
    if how == "blocks":
        for start in range(0, len(left), BLOCK):
            length = len(left[start : start + BLOCK])
            if chance.random() < 0.5:
                left[start : start + length] = chance.choice([bytes(length), chance.randbytes(length)])
    return bytes(left)
