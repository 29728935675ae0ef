"""The format of checkpoints: what is written comes back bit by bit, and what cannot be written is refused before."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hvdkit.checkpoint.storage import disk, format, parts, reader
from hvdkit.checkpoint.storage.format import DamagedCheckpointError
from hvdkit.checkpoint.storage.reader import Checkpoint
from hvdkit.checkpoint.storage.store import Store
from hvdkit.errors import UsageError

PAGE = Path(__file__).parent.parent.parent / "docs" / "checkpoint_format.md"


def saved(directory, arrays, meta=None, state=None, step=120) -> Checkpoint:
    writer = Store(directory).writer(step, "run")
    writer.write("common", arrays, meta)
    return Checkpoint(writer.commit(["common"], epoch=1, world_size=2, state=state)).verify()


# What the installed ml_dtypes has of the types that NumPy does not know; TensorFlow 2.16 holds it at 0.3.
KNOWN = [name for name in format.FOREIGN if hasattr(ml_dtypes, name)]

EVERYTHING = {
    **{f"type {name}": np.arange(-3, 4).astype(name).reshape(7, 1) for name in parts._TYPES},
    **{f"type {name}": np.arange(7).astype(getattr(ml_dtypes, name)) for name in KNOWN},
    "scalar": np.array(3.5),
    "a number": np.float32(1.5),
    "empty": np.zeros((3, 0, 2)),
    "big-endian": np.arange(5, dtype=">i4"),
    "strided": np.arange(24.0).reshape(4, 6)[::2, ::-1],
    "column by column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "bfloat16, transposed": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16).T,
    "bits of NaN": np.array([0x7FC00001, 0xFF800000, 0x80000000], "uint32").view("float32"),
    "": np.zeros(1),
    'dense/kernel:0 "ä\n\U0001f600': np.ones(2),
}


def test_every_type_and_layout_comes_back(tmp_path):
    checkpoint = saved(tmp_path, EVERYTHING, {"a": [1, None]})
    assert checkpoint.names("common") == sorted(EVERYTHING)
    for name, array in EVERYTHING.items():
        back = checkpoint.get("common", name)
        assert back.dtype == array.dtype.newbyteorder("=") and back.shape == array.shape, name
        assert back.tobytes() == array.astype(back.dtype).tobytes(), name
        assert checkpoint.shape_dtype("common", name) == (array.shape, back.dtype.name)
    assert checkpoint.meta("common") == {"a": [1, None]}
    assert set(checkpoint.manifest.parts["common"].dtypes.values()) == set(KNOWN)


@pytest.mark.parametrize("name", format.FOREIGN)
def test_every_foreign_type_is_tried(name):
    if name not in KNOWN:
        pytest.skip(f"ml_dtypes {ml_dtypes.__version__} has no {name}")
    assert EVERYTHING[f"type {name}"].dtype.itemsize == format.FOREIGN[name]


SHAPES = hnp.array_shapes(min_dims=0, min_side=0)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(max_size=10).filter(lambda name: name != "__metadata__"),
        st.sampled_from(sorted(parts._TYPES)).flatmap(lambda kind: hnp.arrays(kind, SHAPES)),
        max_size=5,
    )
)
def test_any_arrays_come_back(tmp_path, arrays):
    path = tmp_path / "common.safetensors"
    written = parts.write_part(path, arrays)
    assert written.bytes == path.stat().st_size and written.sha256 == disk.sha256(path)
    tensors = parts.read_header(path, written.bytes)
    from safetensors.numpy import load

    back = load(path.read_bytes())
    assert set(back) == set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert back[name].tobytes() == array.tobytes() and back[name].shape == array.shape == tensors[name].shape


def test_a_big_array_is_written_in_pieces_whatever_the_disk_takes(tmp_path, monkeypatch):
    sizes = []

    class Slow:
        def __getattr__(self, name):
            return getattr(real, name)

        def write(self, descriptor, data):
            sizes.append(len(data))
            return real.write(descriptor, data[: max(1, len(data) // 3)])

    real = disk.kernel
    monkeypatch.setattr(disk, "kernel", Slow())
    array = np.random.default_rng(1).normal(size=2**20)
    assert (saved(tmp_path, {"x": array, "y": array[:10]}).get("common", "x") == array).all()
    assert max(sizes) == disk.CHUNK


def test_without_ml_dtypes_the_bits_come_back(tmp_path, monkeypatch):
    array = np.arange(5).astype(ml_dtypes.bfloat16)
    checkpoint = saved(tmp_path, {"x": array})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert checkpoint.get("common", "x").dtype == "uint16"
    assert (checkpoint.get("common", "x") == array.view("uint16")).all()
    assert checkpoint.shape_dtype("common", "x") == ((5,), "bfloat16")


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros(1, complex)},
        {"x": np.array(["text"])},
        {"x": np.array([None])},
        {"x": np.zeros(1, [("a", "f4")])},
        {"x": np.array(["2026-01-01"], "datetime64[s]")},
        {"x": np.zeros(1, ml_dtypes.int4)},
        {"__metadata__": np.zeros(1)},
        {1: np.zeros(1)},
        {"\ud800": np.zeros(1)},
    ],
    ids=lambda arrays: ascii(arrays)[:40],
)
def test_arrays_that_cannot_be_saved(tmp_path, arrays):
    writer = Store(tmp_path).writer(1, "run")
    with pytest.raises(UsageError, match=re.escape(ascii(next(iter(arrays))))):
        writer.write("common", arrays)
    assert list(writer.path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "rank-3", "rank-000003", "../x", "Common", "common\n", "common-00001x", None, 3])
def test_names_that_are_not_parts(tmp_path, name):
    writer = Store(tmp_path).writer(1, "run")
    with pytest.raises(UsageError, match="A part should be named"):
        writer.write(name, {})
    with pytest.raises(UsageError, match="A part should be named"):
        writer.commit([name], epoch=1, world_size=1)


def _deep(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [{"a": float("nan")}, {"a": float("inf")}, {"a": {1, 2}}, {"a": np.float32(1)}, {"a": b"x"}, _deep(5000)],
    ids=["nan", "inf", "set", "float32", "bytes", "deep"],
)
def test_what_is_not_json_is_refused(tmp_path, value):
    store = Store(tmp_path)
    writer = store.writer(1, "run")
    with pytest.raises(UsageError, match="JSON"):
        writer.write("common", {}, value)
    writer.write("common", {})
    with pytest.raises(UsageError):
        writer.commit(["common"], epoch=1, world_size=1, state=value)
    assert store.steps() == [] and not writer.path.exists()


STATES = {"deep": _deep(300), "key": {1: 2}, "half": {"a": "\ud800"}, "big": {"a": 10**5000}}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_what_could_not_be_read_again_is_not_written(tmp_path, state):
    """Either it is refused, or it comes back as it was."""
    store = Store(tmp_path)
    writer = store.writer(1, "run")
    writer.write("common", {})
    try:
        writer.commit(["common"], epoch=1, world_size=1, state=state)
    except UsageError:
        assert store.steps() == []
    else:
        assert store.verify(1).manifest.state == state


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=10,
        ),
    )
)
def test_any_json_comes_back_and_its_bytes_are_canonical(state):
    part = {"file": "common.safetensors", "bytes": 0, "sha256": "0" * 64, "dtypes": {}, "meta": state}
    fields = {"step": 1, "epoch": 0, "world_size": 1, "created": 0, "state": state, "parts": {"common": part}}
    data = format.manifest_bytes(fields)
    manifest = format.parse_manifest(data, Path("manifest.json"))
    assert manifest.state == manifest.parts["common"].meta == state
    assert format.canonical(manifest.model_dump()) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_for_a_header_are_refused_as_damage(data):
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "x")
        path.write_bytes(data)
        try:
            tensors = parts.read_header(path, len(data))
        except DamagedCheckpointError as error:
            assert str(path) in str(error)
        else:
            assert tensors == {} and data[8:].strip() == b"{}"


def test_a_newer_schema_says_to_update(tmp_path):
    checkpoint = saved(tmp_path, {})
    path = checkpoint.path / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 3'))
    with pytest.raises(DamagedCheckpointError, match="schema_version is 3") as caught:
        Checkpoint(checkpoint.path)
    assert "update" in caught.value.fix and str(path) in caught.value.what


def test_what_is_not_there(tmp_path):
    checkpoint = saved(tmp_path, {"x": np.zeros(1)})
    with pytest.raises(UsageError, match="has no part 'rank-00000'; it has common"):
        checkpoint.names("rank-00000")
    with pytest.raises(UsageError, match="has no tensor 'y'"):
        checkpoint.get("common", "y")


def test_too_many_open_files_are_not_damage(tmp_path, monkeypatch):
    saved(tmp_path, {})

    def full(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(reader.disk.os, "open", full)
    with pytest.raises(OSError, match="Too many"):
        Store(tmp_path).newest_valid()


def test_the_reader_of_the_page_reads_it(tmp_path):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 20
    words = {word for line in lines if line.startswith(("import", "from")) for word in re.split(r"[ ,.]+", line)}
    assert words <= {"import", "from", "hashlib", "json", "pathlib", "numpy", "as", "np", "safetensors", "load"}
    names: dict = {}
    exec(code, names)  # noqa: S102
    checkpoint = saved(tmp_path, {"x": np.arange(3.0), "y": np.ones(2, ml_dtypes.bfloat16)}, state={"a": [1.5]})
    manifest, arrays = names["read"](checkpoint.path)
    assert manifest["step"] == 120 and arrays["common"]["x"].tolist() == [0, 1, 2]
    assert manifest["parts"]["common"]["dtypes"] == {"y": "bfloat16"} and arrays["common"]["y"].dtype == "uint16"
    for path in checkpoint.path.iterdir():
        before = path.read_bytes()
        path.write_bytes(before[:-1] + b"\x01")
        with pytest.raises((AssertionError, json.JSONDecodeError)):
            names["read"](checkpoint.path)
        path.write_bytes(before)


def test_the_page_says_what_the_code_does():
    text = PAGE.read_text()
    for word in ("16 MiB", f'"{format.FORMAT}"', *format.Manifest.model_fields):
        assert word in text
    assert set(re.findall(r"`(\w+)`", re.search(r"for each part: (.*)\|", text)[1])) == set(format.Part.model_fields)


def test_no_wall_is_broken():
    """Neither TensorFlow nor any room that imports it is loaded."""
    import subprocess

    modules = "disk, format, lock, parts, reader, retention, store, writer"
    code = (
        f"import sys; from hvdkit.checkpoint.storage import {modules}; import hvdkit.cli.checkpoint\n"
        "heavy = ('tensorflow', 'keras', 'horovod', 'hvdkit.comm', 'hvdkit.grads', 'hvdkit.callbacks')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
