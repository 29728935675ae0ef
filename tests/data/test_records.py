"""Damaged files of records: every flipped bit is an error that names file and record, or changes nothing."""

from __future__ import annotations

import os

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import hvdkit as hvd
from hvdkit.data import crc32c, files
from hvdkit.errors import UsageError

RECORDS = [b"first", b"", b"the third one\0\0", np.float32([2.0, 3.0]).tobytes()]


def _write(path, records, compression=None) -> bytes:
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path.read_bytes()


def _delivered(path) -> list[bytes]:
    hvd.init()
    data = hvd.data.shard(str(path), batch_size=2, shuffle=False, parse=lambda records: records)
    return [record for batch, _ in data.batches(0) for record in batch.numpy().tolist()]


def test_every_flipped_bit_is_an_error_that_names_its_record(tmp_path):
    path = tmp_path / "some.tfrecord"
    whole = _write(path, RECORDS)
    assert _delivered(path) == RECORDS
    ends = np.cumsum([len(record) + 16 for record in RECORDS])
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        number = int(np.searchsorted(ends, bit // 8, side="right"))
        with pytest.raises(UsageError, match=rf"some\.tfrecord.*\brecord {number}\b"):
            (file,) = files.open_files(str(path), tf.identity)
            file.read(np.arange(file.samples))
        if not bit % 61:  # the same through all that is between
            with pytest.raises(UsageError, match=rf"some\.tfrecord.*\brecord {number}\b"):
                _delivered(path)
            with pytest.raises(tf.errors.DataLossError):  # as tf.data, which numbers nothing
                list(tf.data.TFRecordDataset(str(path)))


@pytest.mark.parametrize("cut", [1, 3, 12, 16, 30])
def test_a_file_that_was_cut_off(tmp_path, cut):
    path = tmp_path / "some.tfrecord"
    path.write_bytes(_write(path, RECORDS)[:-cut])
    with pytest.raises(UsageError, match=r"some\.tfrecord is not a complete TFRecord file: record [23], at byte"):
        _delivered(path)


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_a_compressed_file_is_refused_in_a_sentence(tmp_path, compression):
    path = tmp_path / "some.tfrecord"
    _write(path, RECORDS, compression)
    with pytest.raises(UsageError, match=r"some\.tfrecord.*record 0(.|\n)*tf.data.TFRecordDataset"):
        _delivered(path)


def test_a_file_that_is_damaged_while_it_is_read(tmp_path):
    """What Keras' loop raises is the sentence, and not TensorFlow's account of it."""
    import keras

    path = tmp_path / "some.tfrecord"
    whole = _write(path, [np.float32([n, n]).tobytes() for n in range(8)])
    hvd.init()
    parse = lambda records: (tf.reshape(tf.io.decode_raw(records, tf.float32), (-1, 2)), tf.zeros(tf.shape(records)))
    data = hvd.data.shard(str(path), batch_size=2, shuffle=False, parse=parse)
    path.write_bytes(whole[:70] + bytes([whole[70] ^ 64]) + whole[71:])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    for run in (lambda: model.fit(data, verbose=0), lambda: model.evaluate(data, verbose=0)):
        with pytest.raises(UsageError, match=r"^.*some\.tfrecord is damaged: record 2,"):
            run()
    path.write_bytes(whole)
    assert np.isfinite(model.evaluate(data, verbose=0))
    path.unlink()
    with pytest.raises(UsageError, match=r"some\.tfrecord cannot be read"):
        model.fit(data, verbose=0)


@given(st.lists(st.binary(max_size=600), max_size=40), st.integers(0, 7))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_checksums_are_those_of_tensorflow(tmp_path_factory, records, piece):
    path = tmp_path_factory.mktemp("crc") / "r"
    whole = _write(path, records)
    at = np.cumsum([0, *[len(record) + 16 for record in records]])
    written = [int.from_bytes(whole[end - 4 : end], "little") for end in at[1:]]
    lengths = [int.from_bytes(whole[begin + 8 : begin + 12], "little") for begin in at[:-1]]
    assert crc32c.masked(records, piece).tolist() == written
    assert crc32c.masked([whole[begin : begin + 8] for begin in at[:-1]], piece).tolist() == lengths


def test_checksums_of_more_than_is_done_at_once(tmp_path):
    records = [os.urandom(n) for n in (5 << 20, 3, 1 << 20, 9 << 20, 0)]
    whole = _write(tmp_path / "r", records)
    ends = np.cumsum([len(record) + 16 for record in records])
    assert crc32c.masked(records).tolist() == [int.from_bytes(whole[end - 4 : end], "little") for end in ends]


def _model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse", run_eagerly=False)
    return model


def _pairs(records):
    x = tf.reshape(tf.io.decode_raw(records, tf.float32), [-1, 1])
    return x, x


def test_an_error_of_the_users_own_is_not_taken_for_one_of_a_file_before(tmp_path):
    """A damaged record was met ahead in an epoch that was left; then the file was mended."""
    path = tmp_path / "some.tfrecord"
    whole = _write(path, [np.float32([i]).tobytes() for i in range(6)])
    hvd.init()
    path.write_bytes(whole[:-5] + b"\xff" + whole[-4:])
    data = hvd.data.shard(str(path), batch_size=2, shuffle=False, parse=_pairs)
    with pytest.raises(UsageError, match="record 5"):
        _model().fit(data, verbose=0)
    batches = data.batches(0)
    next(batches)
    path.write_bytes(whole)
    data.source.failure = UsageError("of an epoch that was left")

    class Own(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            tf.debugging.assert_equal(1, 2, "the user's own")

    with pytest.raises(tf.errors.InvalidArgumentError, match="the user's own"):
        _model().fit(data, verbose=0, callbacks=[Own()])


def test_a_file_of_arrays_that_was_closed(tmp_path):
    hvd.init()
    file = h5py.File(tmp_path / "some.h5", "w")
    file["x"] = np.ones((6, 1), "float32")
    data = hvd.data.shard(file["x"], np.ones((6, 1), "float32"), batch_size=2)
    file.close()
    with pytest.raises(UsageError, match=r"`x` cannot be read: .*\n.*keep its file open"):
        _model().fit(data, verbose=0)
