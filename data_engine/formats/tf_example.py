"""tf.train.Example by its wire format: names to lists of bytes, 32-bit floats or 64-bit integers.

The message is ``Example{1: Features{1: map<string, Feature>}}``, a ``Feature`` one of ``{1: BytesList, 2: FloatList,
3: Int64List}``, each a list in its field 1, packed or not. Only what is asked for is decoded, and packed lists by
numpy: a list of n numbers takes O(n) without a Python object a number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_engine.errors import SourceError

__all__ = ["Example", "Values"]

Values = list[memoryview] | np.ndarray
"""What one feature holds: byte strings as views into the record, float32 [n] or int64 [n]."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BYTES, _FLOATS, _INTEGERS = 1, 2, 3


class Example:
    """The features of one serialised ``tf.train.Example`` by name, decoded when asked for.

    Raises ``SourceError`` (``damaged_example``) for bytes that are no such message.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._features: dict[str, tuple[int, int]] = {}
        for _, _, start, stop in self._named(_fields(data, 0, len(data)), 1):
            for _, _, at, end in self._named(_fields(data, start, stop), 1):
                self._add(at, end)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features that are there."""
        return tuple(self._features)

    def get(self, name: str) -> Values:
        """The values of a feature; an empty list where it has none or is not there."""
        data, (start, stop) = self._data, self._features.get(name, (0, 0))
        kind = 0
        parts: list[tuple[int, int]] = []
        for number, wire, at, end in _fields(data, start, stop):
            if number not in (_BYTES, _FLOATS, _INTEGERS) or wire != _LENGTH:
                continue
            if number != kind:  # of several kinds the last one counts
                kind, parts = number, []
            parts.append((at, end))
        if kind == _BYTES:
            view = memoryview(data)
            return [view[a:b] for at, end in parts for a, b in _strings(data, at, end)]
        if kind == _FLOATS:
            return _joined([found for at, end in parts for found in _floats(data, at, end)], np.float32)
        if kind == _INTEGERS:
            return _joined([found for at, end in parts for found in _integers(data, at, end)], np.int64)
        return []

    def _add(self, start: int, stop: int) -> None:
        name, feature = "", (stop, stop)
        for number, wire, at, end in _fields(self._data, start, stop):
            if wire == _LENGTH and number == 1:
                try:
                    name = self._data[at:end].decode()
                except UnicodeDecodeError as error:
                    raise _damaged("a feature's name is no text") from error
            elif wire == _LENGTH and number == 2:
                feature = (at, end)
        self._features[name] = feature

    @staticmethod
    def _named(fields: Iterator[tuple[int, int, int, int]], number: int) -> Iterator[tuple[int, int, int, int]]:
        return (field for field in fields if field[0] == number and field[1] == _LENGTH)


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, stop) of each field of the message in ``data[at:stop]``.

    Start to stop is the content of a length-delimited or fixed field, the encoded number of a varint.
    """
    while at < stop:
        tag, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at, stop)
        wire = tag & 7
        if wire == _LENGTH:
            length, at = _varint(data, at, stop)
            end = at + length
        elif wire == _VARINT:
            _, end = _varint(data, at, stop)
        elif wire in (_FIXED32, _FIXED64):
            end = at + (4 if wire == _FIXED32 else 8)
        else:
            raise _damaged(f"a field has wire type {wire}")
        if end > stop:
            raise _damaged("a field reaches beyond its message")
        yield tag >> 3, wire, at, end
        at = end


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """(value, offset behind it) of the variable-length integer at ``at``."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _damaged("a number does not end")


def _strings(data: bytes, at: int, stop: int) -> list[tuple[int, int]]:
    return [(start, end) for number, wire, start, end in _fields(data, at, stop) if (number, wire) == (1, _LENGTH)]


def _floats(data: bytes, at: int, stop: int) -> Iterator[np.ndarray]:
    for number, wire, start, end in _fields(data, at, stop):
        if number == 1 and wire in (_LENGTH, _FIXED32):
            if (end - start) % 4:
                raise _damaged("a list of floats is no whole number of them")
            yield np.frombuffer(data, "<f4", (end - start) // 4, start)


def _integers(data: bytes, at: int, stop: int) -> Iterator[np.ndarray]:
    for number, wire, start, end in _fields(data, at, stop):
        if number == 1 and wire in (_LENGTH, _VARINT):
            yield _varints(np.frombuffer(data, np.uint8, end - start, start))


def _varints(encoded: np.ndarray) -> np.ndarray:
    """int64 [n] out of ``encoded`` (uint8, n variable-length integers in a row)."""
    if not len(encoded):
        return np.empty(0, np.int64)
    last = encoded < 0x80
    if last.all():  # none above 127, as flags are
        return encoded.astype(np.int64)
    stops = np.flatnonzero(last) + 1
    if not len(stops) or stops[-1] != len(encoded):
        raise _damaged("a number does not end")
    starts = np.concatenate([[0], stops[:-1]])
    lengths = stops - starts
    if lengths.max() > 10:
        raise _damaged("a number does not end")
    place = np.arange(len(encoded)) - np.repeat(starts, lengths)
    digits = (encoded & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(digits, starts).view(np.int64)


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])


def _damaged(why: str) -> SourceError:
    return SourceError(f"the record is no tf.train.Example: {why}", code="damaged_example")
