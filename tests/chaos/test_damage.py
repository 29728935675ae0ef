"""Whatever happens to a file of a checkpoint is found, the file is named, and the one before is taken."""

from __future__ import annotations

import os
import random

import pytest

from hvdkit.checkpoint.storage.format import DamagedCheckpointError
from hvdkit.checkpoint.storage.store import Store
from tests.chaos.common import count, save

pytestmark = pytest.mark.timeout(3600)


def flipped(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def zeroed(data: bytes, chance: random.Random) -> bytes:
    length = chance.choice([1, 16, 512])
    while True:
        start = chance.randrange(len(data))
        changed = (data[:start] + bytes(length) + data[start + length :])[: len(data)]
        if changed != data:
            return changed


# Each makes other bytes of a file's bytes.
CHANGES = {
    "bit flip": flipped,
    "bit flips": lambda data, chance: flipped(flipped(data, chance), chance),
    "truncated": lambda data, chance: data[: chance.randrange(len(data))],
    "appended": lambda data, chance: data + chance.choice([b"\n", b"\0", b" ", chance.randbytes(100)]),
    "zeroed": zeroed,
    "other bytes": lambda data, chance: chance.randbytes(len(data)),
}


def damaged(store: Store, how: str, chance: random.Random) -> tuple[dict, set[str]]:
    """Damage the newest checkpoint; the bytes to put back, and the files of which one must be named."""
    newest = store.path(3)
    files = sorted(newest.iterdir())
    parts = [path for path in files if path.suffix == ".safetensors"]
    path = chance.choice(files)
    touched = [path]
    if how == "swapped parts":
        touched = parts
    elif how == "swapped between checkpoints":
        touched = [path, store.path(2) / path.name]
    before = {file: file.read_bytes() for file in touched}
    if how.startswith("swapped"):
        for file, content in zip(touched, reversed(list(before.values())), strict=True):
            file.write_bytes(content)
    elif how == "missing":
        path.unlink()
    else:
        content = CHANGES[how](before[path], chance)
        path.write_bytes(content)
        if content == before[path]:  # the same bit twice
            return damaged(store, how, chance)
    return before, {str(file) for file in touched}


def test_every_damage_is_found(quick_path):
    chance = random.Random(5)
    store = Store(quick_path / "store")
    for step in (1, 2, 3):
        save(store, step)
    kinds = [*CHANGES, "swapped parts", "swapped between checkpoints", "missing"]
    found = dict.fromkeys(kinds, 0)
    times = count(200, 10_000)
    for number in range(times):
        how = kinds[number % len(kinds)]
        before, names = damaged(store, how, chance)
        skipped = []
        newest = store.newest_valid(skipped=lambda step, error, skipped=skipped: skipped.append((step, error)))
        assert newest is not None, f"{number}: {how}"
        assert newest.manifest.step == (1 if how == "swapped between checkpoints" else 2), f"{number}: {how}"
        assert all(any(name in str(error) for name in names) for _, error in skipped), f"{number}: {how}: {skipped}"
        with pytest.raises(DamagedCheckpointError):
            store.verify(3)
        found[how] += 1
        for file, content in before.items():
            file.write_bytes(content)
    assert store.newest_valid().manifest.step == 3
    assert sum(found.values()) == times
    print(found)


def test_every_single_bit_of_a_manifest_counts(quick_path):
    """Also one between two words; every bit in the long run, some of each byte in the short one."""
    store = Store(quick_path / "store")
    save(store, 1)
    path = store.path(1) / "manifest.json"
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8) if count(0, 1) else [place % 8]:
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with pytest.raises(DamagedCheckpointError, match=r"manifest\.json"):
                store.open(1)
    os.unlink(path)
    with pytest.raises(DamagedCheckpointError, match="missing"):
        store.open(1)
