"""Checkpoints that somebody made to do harm, each with right hashes: ``python -m tests.chaos.hostile DIR``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import sys
import time
from pathlib import Path

import psutil

from hvdkit.checkpoint.storage.format import DamagedCheckpointError
from hvdkit.checkpoint.storage.store import Store

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
PIECE = 2**20


def tensors(header: object, data: bytes = bytes(8)) -> bytes:
    """A part's file, with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = tensors({"x": F32})


def part(data: bytes = GOOD, **changes) -> dict:
    """A part's entry in the manifest that fits its file, but for what is changed."""
    entry = {"bytes": len(data), "dtypes": {}, "file": "common.safetensors", "meta": {}}
    return {**entry, "sha256": hashlib.sha256(data).hexdigest(), **changes}


def signed(content: dict) -> bytes:
    """A manifest written as hvdkit writes it, with a right hash."""
    rest = (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()
    whole = {**content, "sha256": hashlib.sha256(rest).hexdigest()}
    return (json.dumps(whole, sort_keys=True, indent=1) + "\n").encode()


def manifest(parts: dict | None = None, **changes) -> bytes:
    """A right manifest but for what is changed; what is None is left out."""
    content = {"format": "hvdkit-checkpoint", "schema_version": 1, "step": 1, "epoch": 1, "world_size": 1}
    content |= {"created": 0, "state": {}, "parts": {"common": part()} if parts is None else parts, **changes}
    return signed({name: value for name, value in content.items() if value is not None})


def of(data: bytes, **changes) -> dict:
    """The files of a checkpoint whose only part has these bytes."""
    return {"manifest.json": manifest({"common": part(data, **changes)}), "common.safetensors": data}


def header(entries: object, data: bytes = bytes(8)) -> dict:
    """The files of a checkpoint with this header."""
    return of(tensors(entries, data))


def said(**changes) -> dict:
    """The files of a checkpoint whose manifest says something else."""
    return {"manifest.json": manifest(**changes), "common.safetensors": GOOD}


def raw(data: bytes) -> dict:
    """The files of a checkpoint with these bytes for a manifest."""
    return {"manifest.json": data, "common.safetensors": GOOD}


def named(name: str, file: str) -> dict:
    """The files of a checkpoint whose part has another name or another file."""
    return said(parts={name: part(file=file)})


def _link_part(step: Path) -> None:
    os.rename(step / "common.safetensors", step / "real")
    os.symlink("real", step / "common.safetensors")


def _link_manifest(step: Path) -> None:
    os.rename(step / "manifest.json", step / "real")
    os.symlink("real", step / "manifest.json")


def _link_directory(step: Path) -> None:
    os.rename(step, step.with_name("real"))
    os.symlink("real", step)


def _fifo(name: str):
    def make(step: Path) -> None:
        os.unlink(step / name)
        os.mkfifo(step / name)

    return make


def _directory(step: Path) -> None:
    os.unlink(step / "common.safetensors")
    os.mkdir(step / "common.safetensors")


def _sparse(name: str, size: int):
    return lambda step: os.truncate(step / name, size)


def nested(depth: int) -> bytes:
    """JSON as deep as that, written by hand: json.dumps would not."""
    return b"[" * depth + b"]" * depth


def _twice(data: bytes) -> bytes:
    return data.replace(b' "step": 1,', b' "step": 2,\n "step": 1,')


NAN = {"loss": float("nan")}
CLAIM = (100 * 2**20).to_bytes(8, "little") + b"{"
DEEP = manifest().replace(b' "state": {},', b' "state": {"a": ' + nested(100_000) + b"},")
OVERLAP = {"x": F32, "y": F32}
# name -> (files, what is done to the directory after they are written)
CASES = {
    "a part that climbs out": (named("../common", "../common.safetensors"), None),
    "a file that climbs out": (named("common", "../outside.safetensors"), None),
    "an absolute file": (named("common", "/etc/passwd"), None),
    "a file of another part": (named("rank-00000", "common.safetensors"), None),
    "a part with a newline": (named("common\n", "common\n.safetensors"), None),
    "a part with other digits": (named("rank-\uff10\uff10\uff10\uff10\uff10", "rank-00000.safetensors"), None),
    "a part with a NUL": (named("common\0", "common\0.safetensors"), None),
    "a linked part": (of(GOOD), _link_part),
    "a linked manifest": (of(GOOD), _link_manifest),
    "a linked directory": (of(GOOD), _link_directory),
    "a pipe for a part": (of(GOOD), _fifo("common.safetensors")),
    "a pipe for a manifest": (of(GOOD), _fifo("manifest.json")),
    "a directory for a part": (of(GOOD), _directory),
    "a header of 2**63 bytes": (of((2**63).to_bytes(8, "little") + GOOD[8:]), None),
    "a header of 2**64-1 bytes": (of(b"\xff" * 8 + GOOD[8:]), None),
    "a header of 100 MB": (of(CLAIM, bytes=200 * 2**20), _sparse("common.safetensors", 200 * 2**20)),
    "a right header of 17 MB": (header(json.dumps({"x": F32}).encode() + b" " * (17 * PIECE)), None),
    "a part of no bytes": (of(b""), None),
    "a part of four bytes": (of(bytes(4)), None),
    "a sparse file of 1 TB": (of(GOOD, bytes=2**40), _sparse("common.safetensors", 2**40)),
    "a manifest of 1 TB": (of(GOOD), _sparse("manifest.json", 2**40)),
    "a deep manifest": (raw(DEEP), None),
    "a deep header": (header(nested(100_000)), None),
    "a state as deep as Python reads": (raw(DEEP.replace(nested(100_000), nested(400))), None),
    "a wide manifest": (raw(b"[" + b"[]," * (5 * PIECE) + b"[]]"), None),
    "a wide header": (header(b"[" + b"[]," * (5 * PIECE) + b"[]]"), None),
    "offsets out of range": (header({"x": {**F32, "shape": [2**20], "data_offsets": [0, 2**22]}}), None),
    "offsets that overlap": (header(OVERLAP), None),
    "offsets with a gap": (header({"x": {**F32, "data_offsets": [8, 16]}}, bytes(16)), None),
    "offsets backwards": (header({"x": {**F32, "data_offsets": [8, 0]}}), None),
    "offsets below 0": (header({"x": {**F32, "data_offsets": [-8, 0]}}), None),
    "bytes of no tensor": (header({"x": F32}, bytes(9)), None),
    "an unknown type": (header({"x": {**F32, "dtype": "F4"}}), None),
    "a type that is a list": (header({"x": {**F32, "dtype": ["F32"]}}), None),
    "a negative shape": (header({"x": {**F32, "shape": [-1, -2]}}), None),
    "a shape that overflows": (header({"x": {**F32, "shape": [2**32, 2**32], "data_offsets": [0, 0]}}, b""), None),
    "an empty shape that is huge": (header({"x": {**F32, "shape": [2**64, 0], "data_offsets": [0, 0]}}, b""), None),
    "a shape of floats": (header({"x": {**F32, "shape": [2.0]}}), None),
    "a shape of booleans": (header({"x": {**F32, "shape": [True, 2]}}), None),
    "a thousand dimensions": (header({"x": {**F32, "shape": [2] + [1] * 1000}}), None),
    "a header that is a list": (header([F32]), None),
    "a header that says NaN": (header({"x": {**F32, "shape": [float("nan")]}}), None),
    "a header with two equal keys": (header(b'{"x": {}, "x": ' + json.dumps(F32).encode() + b"}"), None),
    "a header that is not UTF-8": (header(b'{"\xff": ' + json.dumps(F32).encode() + b"}"), None),
    "a lone surrogate": (header({"\ud800": F32}), None),
    "metadata": (header({"__metadata__": {"a": "b"}, "x": F32}), None),
    "a foreign type of no tensor": (of(GOOD, dtypes={"y": "bfloat16"}), None),
    "a foreign type of other bytes": (of(GOOD, dtypes={"x": "bfloat16"}), None),
    "an unknown foreign type": (of(GOOD, dtypes={"x": "object"}), None),
    "NaN": (said(state=NAN), None),
    "infinity": (said(state={"loss": float("inf")}), None),
    "two equal keys": (raw(_twice(manifest())), None),
    "not UTF-8": (raw(manifest().replace(b'"state": {}', b'"state": {"a": "\xff"}')), None),
    "a byte order mark": (raw(b"\xef\xbb\xbf" + manifest()), None),
    "no manifest to speak of": (raw(b""), None),
    "a manifest that is a list": (raw(b"[]\n"), None),
    "another format": (said(format="other"), None),
    "a newer schema": (said(schema_version=999), None),
    "a much newer schema": (said(schema_version=10**4000), None),
    "schema true": (said(schema_version=True), None),
    "a step that is text": (said(step="1"), None),
    "a step that is true": (said(step=True), None),
    "another step": (said(step=2), None),
    "a huge step": (said(step=10**30), None),
    "an endless step": (raw(manifest().replace(b'"step": 1', b'"step": 1' + b"0" * 10_000)), None),
    "a negative length": (of(GOOD, bytes=-1), None),
    "no ranks": (said(world_size=0), None),
    "a state that is a list": (said(state=[1]), None),
    "no parts": (said(parts={}), None),
    "one field more": (said(more=1), None),
    "one field less": (said(epoch=None), None),
    "another hash": (raw(manifest().replace(b'"epoch": 1', b'"epoch": 2')), None),
}


def build(directory: Path) -> Store:
    """A store with one checkpoint, all right so far."""
    step = directory / "store" / "step-000000001"
    step.mkdir(parents=True)
    return Store(directory / "store")


def tree(directory: Path) -> list[tuple]:
    """Every name below a directory, and when it was changed."""
    return sorted((str(path), path.lstat().st_mtime_ns, path.lstat().st_size) for path in directory.rglob("*"))


def attempt(directory: Path, case: str) -> dict:
    """Build one and try to use it in each way."""
    files, then = CASES[case]
    store = build(directory)
    for name, data in files.items():
        (store.path(1) / name).write_bytes(data)
    if then:
        then(store.path(1))
    before, began = tree(directory.parent), time.monotonic()
    result = {"refused": 0, "other": []}
    for use in (lambda: store.verify(1), lambda: [store.open(1).get("common", "x")]):
        try:
            use()
            result["other"].append("accepted")
        except DamagedCheckpointError as error:
            result["refused"] += 1
            text = str(error)
            if str(store.path(1)) not in text or len(text) > 1500:
                result["other"].append(text[:1500])
        except BaseException as error:
            result["other"].append(repr(error)[:300])
    if store.newest_valid() is not None:
        result["other"].append("the newest valid one")
    if tree(directory.parent) != before:
        result["other"].append("something was written")
    return {**result, "seconds": round(time.monotonic() - began, 2)}


def main(directory: str) -> dict:
    """All of them, with little memory; and one that is right, so that being refused means something."""
    good = build(Path(directory, "good"))
    for name, data in of(GOOD).items():
        (good.path(1) / name).write_bytes(data)
    assert good.verify(1).get("common", "x").shape == (2,)
    limit = psutil.Process().memory_info().vms + 700 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    result = {"slowest": 0.0, "wrong": {}, "cases": len(CASES)}
    for number, case in enumerate(CASES):
        found = attempt(Path(directory, str(number)), case)
        result["slowest"] = max(result["slowest"], found["seconds"])
        # Right bytes under a wrong hash are found when all of them are looked at.
        if found["other"] or found["refused"] != 2:
            result["wrong"][case] = found
    # Not ru_maxrss, which begins with the memory of the process that has forked this one.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    result["peak_mb"] = int(peak[1]) // 1024
    return result


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
