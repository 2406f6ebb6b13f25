"""tf.train.Example messages in TFRecord files, written without TensorFlow: the counterpart of the readers in
``formats/tf_example.py`` and ``formats/tfrecord.py``. Equal values make equal bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["Shards", "Value", "example"]

Value = np.ndarray | Sequence[bytes]
"""What a feature may hold: floats (kept as 32 bits), integers and booleans (as 64), flattened; or byte strings."""

_BYTES, _FLOATS, _INTEGERS = 1, 2, 3


def example(features: Mapping[str, Value]) -> bytes:
    """A serialised ``tf.train.Example``: its features by name, sorted. O(bytes), no Python object a number."""
    entries = []
    for name in sorted(features):
        key = name.encode()
        entries.append(_field(1, _field(1, key) + _field(2, _feature(features[name]))))
    return _field(1, b"".join(entries))


class Shards:
    """The TFRecord files of one split as they grow: a new one where the next record would pass ``max_bytes``.

    They are named ``<dataset>-<split>.tfrecord-00000-of-00003`` when :meth:`close` knows how many there are.
    """

    def __init__(self, folder: Path, dataset: str, split: str, max_bytes: int) -> None:
        self.folder, self.dataset, self.split, self.max_bytes = folder, dataset, split, max_bytes
        self.lengths: list[int] = []  # records of each file
        self.data_bytes = 0
        self._held = 0
        self._file: BinaryIO | None = None

    def add(self, data: bytes) -> None:
        """Append one record."""
        if self._file is None or (self._held + len(data) > self.max_bytes and self._held):
            if self._file is not None:
                self._file.close()
            self._file = self._path(len(self.lengths)).open("wb")
            self.lengths.append(0)
            self._held = 0
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length))
        self._file.write(data)
        self._file.write(_checksum(data))
        self.lengths[-1] += 1
        self._held += len(data) + 16
        self.data_bytes += len(data)

    def close(self) -> None:
        """Finish the files and give them their names."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for number in range(len(self.lengths)):
            name = f"{self.dataset}-{self.split}.tfrecord-{number:05d}-of-{len(self.lengths):05d}"
            self._path(number).rename(self.folder / name)

    def _path(self, number: int) -> Path:
        return self.folder / f".{self.split}-{number}"


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated by 15 bits and offset by a constant (TensorFlow, ``lib/io/record_writer``)."""
    from google_crc32c import value

    crc = value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _feature(value: Value) -> bytes:
    if not isinstance(value, np.ndarray):
        return _field(_BYTES, b"".join(_field(1, item) for item in value))
    flat = value.reshape(-1)
    if flat.dtype.kind == "f":
        return _field(_FLOATS, _field(1, flat.astype("<f4").tobytes()))
    return _field(_INTEGERS, _field(1, _varints(flat.astype(np.int64))))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varints(values: np.ndarray) -> bytes:
    """``values`` int64 [n] as variable-length integers in a row; a negative one takes ten bytes."""
    unsigned = values.view(np.uint64)
    if not len(unsigned) or unsigned.max() < 0x80:
        return unsigned.astype(np.uint8).tobytes()
    groups = (unsigned[:, None] >> (7 * np.arange(10, dtype=np.uint64))).astype(np.uint64)
    lengths = np.maximum((groups != 0).sum(axis=1), 1)
    digits = (groups & np.uint64(0x7F)).astype(np.uint8)
    place = np.arange(10)
    digits[place < lengths[:, None] - 1] |= 0x80
    return digits[place < lengths[:, None]].tobytes()
