"""ROS 1 bags, `format 2.0 <https://wiki.ros.org/Bags/Format/2.0>`_: compressed chunks of records, an index at the end.

A bag whose recorder was killed has no index: its chunks are then read from the start up to the first that is cut.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from data_engine.cache import LRU
from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.bag.codec import Channel
from data_engine.formats.bag.container import Bag, Message, Where
from data_engine.formats.bag.ranges import Ranges, inflate

__all__ = ["MAGIC", "Ros1Bag"]

MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _BAG, _INDEX, _CHUNK, _CHUNK_INFO, _CONNECTION = 2, 3, 4, 5, 6, 7
_HEADER_BYTES = 4 << 20  # a connection's holds its message definition
_INDEX_BYTES = 512 << 20
_U32 = struct.Struct("<I").unpack_from
_TIME = struct.Struct("<II").unpack_from


@dataclass(frozen=True)
class _Chunk:
    start: int  # of its record in the file
    first: int  # time of its first and last message
    last: int
    connections: frozenset[int] | None  # None: not known


class Ros1Bag(Bag):
    """An open ROS 1 bag."""

    def __init__(self, source: Source) -> None:
        self.channels, self.notes = {}, []
        self._chunks: list[_Chunk] = []
        self._ranges = Ranges(source)
        self._inflated: LRU[int, bytes] = LRU(2, self._inflate)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        uri = self._ranges.source.uri
        if self._ranges.read(0, len(MAGIC)) != MAGIC:
            raise SourceError(f"{uri} is no ROS 1 bag of format 2.0", code="bad_bag")
        header, _, _, _ = self._record(len(MAGIC))
        if header.get(b"op") != bytes([_BAG]):
            raise SourceError(f"{uri} begins with no bag header", code="bad_bag")
        if header.get(b"encryptor"):
            raise SourceError(f"{uri} is encrypted", code="bad_bag")
        at = int.from_bytes(header.get(b"index_pos", b""), "little")
        if not at:
            self.notes.append("the bag has no index (its recorder did not close it): read from its start")
            self._scan()
            return
        try:
            self._read_index(at)
        except SourceError as error:
            self.channels, self._chunks = {}, []
            self.notes.append(f"the bag's index is damaged ({error.message}): read from its start")
            self._scan()

    def _read_index(self, at: int) -> None:
        size = self._ranges.size - at
        if size > _INDEX_BYTES:
            raise SourceError("it is too large", code="bad_bag")
        data, at = self._ranges.read(at, size), 0
        while at < size:
            fields, start, length, at = _record(data, at, size)
            op = fields.get(b"op")
            if op == bytes([_CONNECTION]):
                self._connection(fields, data[start : start + length])
            elif op == bytes([_CHUNK_INFO]):
                self._chunks.append(_chunk_info(fields, data[start : start + length]))

    def _scan(self) -> None:
        at = len(MAGIC)
        loose = 0
        while at < self._ranges.size:
            try:
                fields, start, length, following = self._record(at)
                op = fields.get(b"op")
                if op == bytes([_CHUNK]):
                    if start + length > self._ranges.size:
                        raise SourceError("a chunk is cut", code="truncated")
                    for kind, inner, data, _ in _records(self._inflate(at)):
                        if kind == _CONNECTION:
                            self._connection(inner, bytes(data))
                    self._chunks.append(_Chunk(at, 0, 1 << 63, None))
                elif op == bytes([_CONNECTION]):
                    self._connection(fields, self._ranges.read(start, length))
                elif op == bytes([_MESSAGE]):
                    loose += 1
            except SourceError as error:
                self.notes.append(
                    f"the bag ends or is damaged at byte {at} ({error.message}): what stands before is read"
                )
                break
            at = following
        if loose:
            self.notes.append(f"{loose} messages outside of chunks are not read")

    def _connection(self, fields: dict[bytes, bytes], data: bytes) -> None:
        number, topic = _number(fields, b"conn"), _text(fields, b"topic")
        inner = _fields(data, 0, len(data))
        definition = inner.get(b"message_definition", b"")
        self.channels[number] = Channel(topic, _text(inner, b"type"), "ros1", "ros1msg", definition)  # type: ignore[index]

    def _record(self, at: int) -> tuple[dict[bytes, bytes], int, int, int]:
        """(fields, start of the data, its length, start of the next record) of the record at ``at`` of the file."""
        size = _U32(self._ranges.read(at, 4))[0]
        if size > _HEADER_BYTES:
            raise SourceError(f"a record's header declares {size} bytes", code="bad_bag")
        head = self._ranges.read(at + 4, size + 4)
        length = _U32(head, size)[0]
        return _fields(head, 0, size), at + size + 8, length, at + size + 8 + length

    def _inflate(self, at: int) -> bytes:
        fields, start, length, _ = self._record(at)
        if fields.get(b"op") != bytes([_CHUNK]):
            raise SourceError(f"no chunk at byte {at}", code="damaged_chunk")
        how = _text(fields, b"compression")
        return inflate(self._ranges.read(start, length), how, _number(fields, b"size"), f"the chunk at byte {at}")

    def messages(
        self, channels: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        """See :meth:`Bag.messages`."""
        for chunk in self._chunks:
            if chunk.connections is not None and not any(number in channels for number in chunk.connections):
                continue
            if (start is not None and chunk.last < start) or (stop is not None and chunk.first >= stop):
                continue
            for kind, fields, data, at in _records(self._inflated(chunk.start)):
                if kind != _MESSAGE:
                    continue
                number = _number(fields, b"conn")
                if number not in channels:
                    continue
                seconds, nanoseconds = _TIME(_sized(fields, b"time", 8))
                logged = seconds * 1_000_000_000 + nanoseconds
                if (start is not None and logged < start) or (stop is not None and logged >= stop):
                    continue
                yield Message(number, logged, None, (chunk.start, at, len(data)), data)

    def load(self, where: Where) -> bytes:
        """See :meth:`Bag.load`."""
        chunk, at, length = where
        return self._inflated(chunk)[at : at + length]

    def close(self) -> None:
        """See :meth:`Bag.close`."""
        self._ranges.close()


def _records(chunk: bytes) -> Iterator[tuple[int, dict[bytes, bytes], memoryview, int]]:
    """(op, fields, data, start of the data) of each record of an inflated chunk."""
    view, at, size = memoryview(chunk), 0, len(chunk)
    while at < size:
        fields, start, length, at = _record(chunk, at, size)
        op = fields.get(b"op")
        yield op[0] if op else 0, fields, view[start : start + length], start


def _record(data: bytes, at: int, size: int) -> tuple[dict[bytes, bytes], int, int, int]:
    try:
        head = _U32(data, at)[0]
        start = at + 4 + head
        length = _U32(data, start)[0]
    except struct.error:
        raise SourceError("a record is cut", code="damaged_chunk") from None
    if start + 4 + length > size:
        raise SourceError("a record is cut", code="damaged_chunk")
    return _fields(data, at + 4, start), start + 4, length, start + 4 + length


def _fields(data: bytes, at: int, stop: int) -> dict[bytes, bytes]:
    """The ``name=value`` fields of a record's header."""
    found = {}
    try:
        while at < stop:
            begin = at + 4
            at = begin + _U32(data, at)[0]
            equals = data.index(b"=", begin, at)
            found[data[begin:equals]] = data[equals + 1 : at]
    except (struct.error, ValueError):
        raise SourceError("a record's header is damaged", code="damaged_chunk") from None
    if at != stop:
        raise SourceError("a record's header is damaged", code="damaged_chunk")
    return found


def _chunk_info(fields: dict[bytes, bytes], data: bytes) -> _Chunk:
    first, last = _TIME(_sized(fields, b"start_time", 8)), _TIME(_sized(fields, b"end_time", 8))
    connections = frozenset(_U32(data, at)[0] for at in range(0, len(data) - 7, 8))
    start = int.from_bytes(_sized(fields, b"chunk_pos", 8), "little")
    return _Chunk(start, first[0] * 1_000_000_000 + first[1], last[0] * 1_000_000_000 + last[1], connections)


def _sized(fields: dict[bytes, bytes], name: bytes, size: int) -> bytes:
    value = fields.get(name)
    if value is None or len(value) != size:
        raise SourceError(f"a record lacks {name.decode()}", code="damaged_chunk")
    return value


def _number(fields: dict[bytes, bytes], name: bytes) -> int:
    return int(_U32(_sized(fields, name, 4))[0])


def _text(fields: dict[bytes, bytes], name: bytes) -> str:
    if name not in fields:
        raise SourceError(f"a record lacks {name.decode()}", code="damaged_chunk")
    return fields[name].decode("utf-8", "backslashreplace")
