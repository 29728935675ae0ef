"""Files of arrays: of other dtypes, byte orders and shapes; damaged; written anew."""

from __future__ import annotations

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.data import files
from hvdkit.errors import UsageError


def _delivered(pattern) -> list[tuple]:
    hvd.init()
    data = hvd.data.shard(str(pattern), batch_size=64, shuffle=False)
    (batch,) = [batch for batch, _ in data.batches(0)]
    return [each.numpy() for each in (batch if isinstance(batch, tuple) else (batch,))]


def test_byte_orders_may_differ(tmp_path):
    x = np.arange(6).reshape(3, 2)
    for number, (floats, whole) in enumerate([(">f4", "<i8"), ("<f4", ">i8")]):
        np.savez(tmp_path / f"{number}.npz", x=x.astype(floats), y=x[:, 0].astype(whole))
    found = _delivered(tmp_path / "*.npz")
    np.testing.assert_array_equal(found[0], np.concatenate([x, x]))
    np.testing.assert_array_equal(found[1], np.concatenate([x[:, 0], x[:, 0]]))
    assert [each.dtype for each in found] == ["float32", "int64"]


def test_texts_of_any_length_are_whole(tmp_path):
    np.savez(tmp_path / "0.npz", x=np.array(["a", "bc"], ">U2"), y=np.array([b"1", b"2"]))
    np.savez(tmp_path / "1.npz", x=np.array(["a long one", "é"]), y=np.array([b"12345", b""]))
    x, y = _delivered(tmp_path / "*.npz")
    assert [text.decode() for text in x] == ["a", "bc", "a long one", "é"]
    assert y.tolist() == [b"1", b"2", b"12345", b""]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"x": np.float32([[0.5]])}, r"`x` of .*1\.npz has samples of float32.*0\.npz of int64"),
        ({"x": np.zeros((2, 3), int)}, r"`x` of .*1\.npz .*shape \(3,\).*0\.npz .*shape \(1,\)"),
        ({"x": np.zeros((2, 1), int), "y": np.zeros(2)}, r"1\.npz has the arrays x, y, but .*0\.npz x"),
    ],
)
def test_every_file_is_as_the_first(tmp_path, second, words):
    np.savez(tmp_path / "0.npz", x=np.int64([[1], [2**40]]))
    np.savez(tmp_path / "1.npz", **second)
    with pytest.raises(UsageError, match=words):
        _delivered(tmp_path / "*.npz")


def test_a_file_without_samples_may_be_of_any_dtype(tmp_path):
    np.savez(tmp_path / "0.npz", x=np.zeros((0,)))
    np.savez(tmp_path / "1.npz", x=np.int64([[1], [2]]))
    assert _delivered(tmp_path / "*.npz")[0].tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.float32(3), "`x` of .*a single value"),
        (np.zeros(2, "M8[D]"), r"`x` of .*datetime64\[D\](.|\n)*astype"),
        (np.zeros(2, [("a", "f4"), ("b", "i4")]), r"`x` of .*(.|\n)*an array for each field.*'a', 'b'"),
        (np.zeros(2, "g"), r"`x` of .*float128(.|\n)*float64"),
        (np.array([None, 1]), r"objects"),
    ],
)
def test_what_is_no_array_of_samples_is_refused(tmp_path, x, words):
    np.savez(tmp_path / "0.npz", x=x)
    with pytest.raises(UsageError, match=words):
        _delivered(tmp_path / "*.npz")


def test_weights_are_not_taken_for_targets(tmp_path):
    np.savez(tmp_path / "0.npz", x=np.ones(3), sample_weight=np.ones(3))
    with pytest.raises(UsageError, match=r"`sample_weight` but no `y`"):
        _delivered(tmp_path / "0.npz")


def test_a_file_written_anew_is_read_anew(tmp_path):
    for value in (1, 2):
        np.savez(tmp_path / "0.npz", x=np.full((3, 2), value))
        assert (_delivered(tmp_path / "0.npz")[0] == value).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [["x"], ["x", "y", "sample_weight"]])
def test_flipped_bits_are_errors_or_change_nothing(tmp_path, save, names):
    """Of a file with one array each bit; of one with three each byte once, each time another of its bits."""
    path = tmp_path / "some.npz"
    arrays = {"x": np.arange(4, dtype="f4"), "y": np.arange(4), "sample_weight": np.ones(4, "f4")}
    arrays = {name: arrays[name] for name in names}
    save(path, **arrays)
    whole, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 1 if len(names) == 1 else 9):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            (file,) = files.open_files(str(path), None)
            found = file.read(np.arange(file.samples))
        except UsageError as error:
            assert "some.npz" in str(error)
            refused += 1
            continue
        assert list(file.spec()) == list(arrays)
        for each, array in zip(found, arrays.values(), strict=True):
            np.testing.assert_array_equal(each, array, strict=True)
    assert refused > bit // 30


def test_a_flipped_bit_in_the_header_of_a_long_array(tmp_path):
    """Its checksum is known only when all of it is read, and of no samples nothing would be read."""
    path = tmp_path / "some.npz"
    np.savez(path, x=np.ones(4000))
    path.write_bytes(path.read_bytes().replace(b"(4000,)", b"(0000,)"))
    with pytest.raises(UsageError, match=r"some.npz.*x does not have the number of bytes that its shape \(0,\) needs"):
        files.open_files(str(path), None)
