"""TFRecord files, whose records are found by their numbers, and checked."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import tensorflow as tf

from hvdkit.data import crc32c
from hvdkit.errors import UsageError

_HEAD, _AROUND = 12, 16  # bytes: the length and its checksum; those, and the checksum of the record


class TFRecord:
    """An uncompressed TFRecord file; where each record begins is found once, from the lengths alone.

    Args:
        path: of the file.

    Raises:
        UsageError: it cannot be read, a length is damaged, or the last record does not end in it.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            size = path.stat().st_size
            heads, begins = _heads(path, size)
        except OSError as error:
            raise _unreadable(path, error) from error
        written = [int.from_bytes(head[8:], "little") for head in heads]
        damaged = np.flatnonzero(crc32c.masked([head[:8] for head in heads], piece=1) != written)
        if len(damaged):
            first = int(damaged[0])
            raise UsageError(
                f"{path} is not a TFRecord file, or it is compressed or damaged: in record {first}, at byte "
                f"{begins[first]}, the length does not have its checksum.",
                fix="write the file again, uncompressed. A compressed one cannot be entered in its middle: read it by "
                'tf.data.TFRecordDataset(..., compression_type="GZIP"), and give that to hvd.data.shard.',
            )
        self._lengths = [struct.unpack_from("<Q", head)[0] for head in heads]
        end = begins[-1] + _AROUND + self._lengths[-1] if heads else 0
        if end != size:
            raise UsageError(
                f"{path} is not a complete TFRecord file: record {len(heads) - (end > size)}, at byte "
                f"{begins[-1] if end > size else end}, does not end in it.",
                fix="write the file again, because it is truncated.",
            )
        self._begins, self.samples = begins, len(heads)

    def spec(self) -> dict:
        """The dtype and the shape of what is read, by its name."""
        return {"the record": (tf.string, ())}

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        """The records with these numbers.

        Raises:
            UsageError: the file cannot be read, or a record does not have its checksum.
        """
        order = np.argsort(rows).tolist()  # in the order of the file
        numbers = rows.tolist()
        try:
            with self.path.open("rb") as stream:
                records, written = [], []
                for i in order:
                    stream.seek(self._begins[numbers[i]] + _HEAD)
                    records.append(stream.read(self._lengths[numbers[i]]))
                    written.append(int.from_bytes(stream.read(4), "little"))
        except OSError as error:
            raise _unreadable(self.path, error) from error
        out = np.empty(len(rows), object)
        out[order] = records
        damaged = np.flatnonzero(crc32c.masked(records) != written)
        if len(damaged):
            number = numbers[order[damaged[0]]]
            raise UsageError(
                f"{self.path} is damaged: record {number}, at byte {self._begins[number]}, does not have its checksum.",
                fix="write the file again.",
            )
        return [out]


def _heads(path: Path, size: int) -> tuple[list[bytes], list[int]]:
    """The length of each record with its checksum, and where it begins; to where that leads out of the file."""
    heads, begins, at = [], [], 0
    with path.open("rb") as stream:
        while at + _HEAD <= size:
            stream.seek(at)
            heads.append(stream.read(_HEAD))
            begins.append(at)
            at += _AROUND + struct.unpack_from("<Q", heads[-1])[0]
    return heads, begins


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} cannot be read as a TFRecord file: {error}.", fix="check the path; on every host.")
