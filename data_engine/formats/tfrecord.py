"""TFRecord files: records of any bytes, each between a checked length and a checksum of its data.

A record is its length (uint64), the length's checksum (uint32), the data and the data's checksum (uint32), all little
endian. Checksums are CRC-32C, rotated by 15 bits and offset by a constant (TensorFlow, ``lib/io/record_writer``).
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from data_engine.errors import SourceError

__all__ = ["RECORD_BYTES", "RecordFile"]

RECORD_BYTES = 1 << 31  # no serialised protocol buffer is larger, so no honest example is
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


class RecordFile:
    """The records of one open file by number. Lengths are read once, data when asked for and one record at a time.

    ``size`` is the file's size in bytes: a length beyond it is refused before anything is allocated. A record whose
    data are damaged spoils only itself; after a damaged length nothing can be found.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._spans: list[tuple[int, int]] = []  # (offset, length) of the data of each record found so far
        self._end = 0  # where the next header lies
        self._at = 0  # where the file stands

    def read(self, index: int) -> bytes:
        """The data of record ``index``. O(records before it that were not passed yet).

        Raises ``SourceError``: ``absent_record`` where the file ends before it, ``truncated`` where it ends inside,
        ``damaged_length`` where a length before or of it is wrong, ``damaged_record`` where its data are,
        ``too_large`` beyond 2 GiB.
        """
        while len(self._spans) <= index:
            self._find_next()
        offset, length = self._spans[index]
        if length > RECORD_BYTES:
            raise SourceError(f"record {index} holds {length} bytes, more than an example can", code="too_large")
        data = self._take(offset, length)
        footer = self._take(offset + length, _FOOTER.size)
        if len(data) < length or len(footer) < _FOOTER.size:
            raise SourceError(f"the file ends inside record {index}", code="truncated")
        if _FOOTER.unpack(footer)[0] != _checksum(data):
            raise SourceError(f"the data of record {index} do not match their checksum", code="damaged_record")
        return data

    def count(self) -> int:
        """How many records there are, the one that the file ends inside or whose length is damaged included.

        Reads 12 bytes a record.
        """
        try:
            while True:
                self._find_next()
        except SourceError as error:
            return len(self._spans) + (error.code != "absent_record")

    def _find_next(self) -> None:
        index = len(self._spans)
        if self._end == self._size:
            raise SourceError(f"the file holds {index} records", code="absent_record")
        header = self._take(self._end, _HEADER.size)
        if len(header) < _HEADER.size:
            raise SourceError(f"the file ends inside record {index}", code="truncated")
        length, checksum = _HEADER.unpack(header)
        if checksum != _checksum(header[:8]):
            raise SourceError(
                f"the length of record {index} does not match its checksum: it and what follows cannot be found",
                code="damaged_length",
            )
        offset = self._end + _HEADER.size
        if offset + length + _FOOTER.size > self._size:
            raise SourceError(f"the file ends inside record {index}", code="truncated")
        self._spans.append((offset, length))
        self._end = offset + length + _FOOTER.size

    def _take(self, offset: int, length: int) -> bytes:
        if offset != self._at:
            self._file.seek(offset)
        data = self._file.read(length)
        self._at = offset + len(data)
        return data


def _checksum(data: bytes) -> int:
    from google_crc32c import value

    crc = value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
