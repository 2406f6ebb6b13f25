"""MCAP files, `by its specification <https://mcap.dev/spec>`_: records, most of them in compressed chunks with CRCs.

A file with a summary is read by ranges, only the chunks that hold what is wanted. One without (cut, or written so) is
read from its start, up to the first record that is cut.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from data_engine.cache import LRU
from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.bag.codec import Channel
from data_engine.formats.bag.container import Bag, Message, Where
from data_engine.formats.bag.ranges import CHUNK_BYTES, Ranges, inflate

__all__ = ["MAGIC", "McapBag"]

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX, _STATISTICS, _DATA_END = 2, 3, 4, 5, 6, 8, 11, 15
_FOOTER_BYTES = 9 + 20
_SUMMARY_BYTES = 512 << 20
_SPAN_BYTES = 4 << 20  # messages outside of chunks are read about so many bytes at a time
_RECORD = struct.Struct("<BQ").unpack_from
_HEAD = struct.Struct("<HIQQ").unpack_from
_U16 = struct.Struct("<H").unpack_from
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from


@dataclass(frozen=True)
class _Span:
    """A chunk record, or with ``loose`` a run of records outside of chunks."""

    start: int
    size: int
    first: int
    last: int
    channels: frozenset[int] | None  # None: not known
    loose: bool = False


class McapBag(Bag):
    """An open MCAP file."""

    has_published = True

    def __init__(self, source: Source) -> None:
        self.channels, self.notes = {}, []
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self._spans: list[_Span] = []
        self._ranges = Ranges(source)
        self._inflated: LRU[_Span, bytes] = LRU(2, self._inflate)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if self._ranges.read(0, len(MAGIC)) != MAGIC:
            raise SourceError(f"{self._ranges.source.uri} is no MCAP file", code="bad_bag")
        try:
            if self._read_summary():
                return
        except (SourceError, struct.error) as error:
            self.notes.append(f"the file's summary is not usable ({error}): read from its start")
        self.channels, self._schemas, self._spans = {}, {}, []
        self._scan()

    def _read_summary(self) -> bool:
        """Whether the file has a summary that indexes its messages."""
        end = self._ranges.size - len(MAGIC)
        tail = self._ranges.read(end - _FOOTER_BYTES, _FOOTER_BYTES + len(MAGIC))
        if tail[-len(MAGIC) :] != MAGIC or tail[0] != _FOOTER:
            raise SourceError("the file is cut: it has no footer", code="truncated")
        start, _, crc = struct.unpack_from("<QQI", tail, 9)
        if not start:
            self.notes.append("the file has no summary: read from its start")
            return False
        size = end - _FOOTER_BYTES - start
        if not 0 <= size <= _SUMMARY_BYTES:
            raise SourceError("the footer points nowhere", code="bad_bag")
        summary = self._ranges.read(start, size)
        if crc and zlib.crc32(tail[: _FOOTER_BYTES - 4], zlib.crc32(summary)) != crc:
            raise SourceError("its CRC differs", code="bad_bag")
        messages = 0
        for op, body in _records(summary, 0, size):
            if op == _CHUNK_INDEX:
                self._spans.append(_chunk_index(body))
            elif op == _STATISTICS:
                messages = _U64(body)[0]
            else:
                self._described(op, body)
        if self._spans:
            known = set(self.channels)
            return all(span.channels is None or span.channels <= known for span in self._spans)
        return not messages and bool(self.channels)

    def _described(self, op: int, body: memoryview) -> None:
        """Take in a schema or a channel."""
        if op == _SCHEMA:
            name, at = _text(body, 2)
            encoding, at = _text(body, at)
            length = _U32(body, at)[0]
            if at + 4 + length > len(body):
                raise SourceError("a schema is cut", code="bad_bag")
            self._schemas[_U16(body)[0]] = name, encoding, bytes(body[at + 4 : at + 4 + length])
        elif op == _CHANNEL:
            number, schema = struct.unpack_from("<HH", body)
            topic, at = _text(body, 4)
            encoding, _ = _text(body, at)
            name, kind, data = self._schemas.get(schema, ("", "", b""))
            self.channels[number] = Channel(topic, name, encoding, kind, data)  # type: ignore[index]

    def _scan(self) -> None:
        at, run = len(MAGIC), len(MAGIC)

        def close(upto: int) -> None:
            if upto > run:
                self._spans.append(_Span(run, upto - run, 0, 1 << 64, None, loose=True))

        try:
            while at < self._ranges.size:
                op, length = _RECORD(self._ranges.read(at, 9))
                following = at + 9 + length
                if following > self._ranges.size:
                    raise SourceError("a record is cut", code="truncated")
                if op in (_DATA_END, _FOOTER):
                    break
                if op == _CHUNK:
                    close(at)
                    first, last = struct.unpack("<QQ", self._ranges.read(at + 9, 16))
                    span = _Span(at, 9 + length, first, last, None)
                    for inner, body in _records(data := self._inflate(span), 0, len(data)):
                        self._described(inner, body)
                    self._spans.append(span)
                    run = following
                elif op in (_SCHEMA, _CHANNEL):
                    if length > CHUNK_BYTES:
                        raise SourceError(f"a record declares {length} bytes", code="too_large")
                    self._described(op, memoryview(self._ranges.read(at + 9, length)))
                elif at - run > _SPAN_BYTES:
                    close(at)
                    run = at
                at = following
        except (SourceError, struct.error) as error:
            self.notes.append(f"the file ends or is damaged at byte {at} ({error}): what stands before is read")
        close(at)

    def _inflate(self, span: _Span) -> bytes:
        if span.loose or span.size > CHUNK_BYTES:
            if span.size > CHUNK_BYTES:
                raise SourceError(f"the records at byte {span.start} are {span.size >> 20} MiB long", code="too_large")
            return self._ranges.read(span.start, span.size)
        record = self._ranges.read(span.start, span.size)
        what = f"the chunk at byte {span.start}"
        try:
            op, _ = _RECORD(record)
            _, _, size, crc = struct.unpack_from("<QQQI", record, 9)
            how, at = _text(memoryview(record), 9 + 28)
            stored = _U64(record, at)[0]
        except struct.error:
            raise SourceError(f"{what} is cut", code="damaged_chunk") from None
        if op != _CHUNK or at + 8 + stored > len(record):
            raise SourceError(f"{what} is none or is cut", code="damaged_chunk")
        data = inflate(memoryview(record)[at + 8 : at + 8 + stored], how, size, what)
        if crc and zlib.crc32(data) != crc:
            raise SourceError(f"{what} does not have the CRC that it states", code="damaged_chunk")
        return data

    def messages(
        self, channels: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        """See :meth:`Bag.messages`."""
        for number, span in enumerate(self._spans):
            if span.channels is not None and not any(channel in channels for channel in span.channels):
                continue
            if (start is not None and span.last < start) or (stop is not None and span.first >= stop):
                continue
            data = self._inflated(span)
            view, at, size = memoryview(data), 0, len(data)
            while at < size:
                op, body, end = _next(data, at, size)
                at = end
                if op != _MESSAGE:
                    continue
                if end - body < 22:
                    raise SourceError("a message is cut", code="damaged_chunk")
                channel, _, logged, published = _HEAD(data, body)
                if channel not in channels:
                    continue
                if (start is not None and logged < start) or (stop is not None and logged >= stop):
                    continue
                yield Message(channel, logged, published, (number, body + 22, end), view[body + 22 : end])

    def load(self, where: Where) -> bytes:
        """See :meth:`Bag.load`."""
        number, start, stop = where
        return self._inflated(self._spans[number])[start:stop]

    def close(self) -> None:
        """See :meth:`Bag.close`."""
        self._ranges.close()


def _next(data: bytes, at: int, size: int) -> tuple[int, int, int]:
    """(opcode, start, end) of the record at ``at``."""
    if at + 9 > size:
        raise SourceError("a record is cut", code="damaged_chunk")
    op, length = _RECORD(data, at)
    if at + 9 + length > size:
        raise SourceError("a record is cut", code="damaged_chunk")
    return op, at + 9, at + 9 + length


def _records(data: bytes, at: int, size: int) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(data)
    while at < size:
        op, start, at = _next(data, at, size)
        yield op, view[start:at]


def _chunk_index(body: memoryview) -> _Span:
    first, last, start, size, offsets = struct.unpack_from("<QQQQI", body)
    if 36 + offsets > len(body):
        raise SourceError("a chunk index is cut", code="bad_bag")
    channels = frozenset(_U16(body, at)[0] for at in range(36, 36 + offsets - 9, 10))
    return _Span(start, size, first, last, channels or None)


def _text(body: memoryview, at: int) -> tuple[str, int]:
    length = _U32(body, at)[0]
    if at + 4 + length > len(body):
        raise SourceError("a text is cut", code="bad_bag")
    return str(body[at + 4 : at + 4 + length], "utf-8", "backslashreplace"), at + 4 + length
