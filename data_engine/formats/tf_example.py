"""tf.train.Example by its wire format: names to lists of bytes, 32-bit floats or 64-bit integers.

The message is ``Example{1: Features{1: map<string, Feature>}}``, a ``Feature`` one of ``{1: BytesList, 2: FloatList,
3: Int64List}``, each a list in its field 1, packed or not. Only what is asked for is decoded, and packed lists by
numpy: a list of n numbers takes O(n) without a Python object a number.

What every writer writes (each message but the map and the lists of bytes is one field long, in the fewest bytes) takes
a short way; whatever else is legal is read too. No byte behind a message is taken for its own: a field that begins
inside and ends outside is refused by where it ends.
"""

from __future__ import annotations

import numpy as np

from data_engine.errors import SourceError

__all__ = ["Example", "Values"]

Values = list[memoryview] | np.ndarray
"""What one feature holds: byte strings as views into the record, float32 [n] or int64 [n]."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BYTES, _FLOATS, _INTEGERS = 1, 2, 3
_DTYPES: dict[int, np.dtype] = {_FLOATS: np.dtype("<f4"), _INTEGERS: np.dtype(np.int64)}
_FIRST, _SECOND = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH  # the tags of such fields


class Example:
    """The features of one serialised ``tf.train.Example`` by name, decoded when asked for.

    Raises ``SourceError`` (``damaged_example``) for bytes that are no such message.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._features: dict[str, tuple[int, int]] = {}
        try:
            for start, stop in _contents(data, 0, len(data)):
                for at, end in _contents(data, start, stop):
                    name, feature = _entry(data, at, end)
                    self._features[name] = feature
        except IndexError as error:
            raise _damaged("it ends inside a field") from error
        except UnicodeDecodeError as error:
            raise _damaged("a feature's name is no text") from error

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features that are there."""
        return tuple(self._features)

    def get(self, name: str) -> Values:
        """The values of a feature; an empty list where it has none or is not there."""
        span = self._features.get(name)
        if span is None:
            return []
        data = self._data
        try:
            kind, start = _only(data, *span)
            parts = [(start, span[1])]
            if not kind:
                kind, parts = _list(data, *span)
            if kind == _BYTES:
                view = memoryview(data)
                return [view[a:b] for at, end in parts for a, b in _contents(data, at, end)]
            if kind in _DTYPES:
                found = [each for at, end in parts for each in _numbers(data, at, end, kind)]
                return found[0] if len(found) == 1 else np.concatenate([np.empty(0, _DTYPES[kind]), *found])
        except IndexError as error:
            raise _damaged("it ends inside a field") from error
        return []


def _entry(data: bytes, at: int, stop: int) -> tuple[str, tuple[int, int]]:
    """Name and place of the ``Feature`` in an entry of the map."""
    size = data[at + 1]
    here = at + 2 + size
    if data[at] == _FIRST and size < 0x80 and here < stop and data[here] == _SECOND:
        length, start = data[here + 1], here + 2
        if length > 0x7F:
            length, start = _varint(data, here + 1)
        if start + length == stop:
            return data[at + 2 : here].decode(), (start, stop)
    name, feature = "", (stop, stop)
    while at < stop:
        number, wire, start, at = _field(data, at, stop)
        if wire == _LENGTH and number == 1:
            name = data[start:at].decode()
        elif wire == _LENGTH and number == 2:
            feature = (start, at)
    return name, feature


def _only(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """The number of the one length-delimited field that a message is, and where its content is; 0 for any other."""
    if stop - at > 1 and data[at] & 0x87 == _LENGTH:  # a tag of one byte
        length, start = data[at + 1], at + 2
        if length > 0x7F:
            length, start = _varint(data, at + 1)
        if start + length == stop:
            return data[at] >> 3, start
    return 0, at


def _list(data: bytes, start: int, stop: int) -> tuple[int, list[tuple[int, int]]]:
    """Which kind of list a ``Feature`` holds (0 for none) and where its parts lie; of several kinds the last counts."""
    kind = 0
    parts: list[tuple[int, int]] = []
    while start < stop:
        number, wire, at, start = _field(data, start, stop)
        if number in (_BYTES, _FLOATS, _INTEGERS) and wire == _LENGTH:
            if number != kind:
                kind, parts = number, []
            parts.append((at, start))
    return kind, parts


def _contents(data: bytes, at: int, stop: int) -> list[tuple[int, int]]:
    """Where the content of each length-delimited field 1 of the message in ``data[at:stop]`` starts and stops."""
    found = []
    while at < stop:
        if data[at] == _FIRST:
            length, at = data[at + 1], at + 2
            if length > 0x7F and data[at] < 0x80:
                length, at = length & 0x7F | data[at] << 7, at + 1
            elif length > 0x7F:
                length, at = _varint(data, at - 1)
            end = at + length
            if end > stop:
                raise _damaged("a field reaches beyond its message")
            found.append((at, end))
        else:
            number, wire, at, end = _field(data, at, stop)
            if number == 1 and wire == _LENGTH:
                found.append((at, end))
        at = end
    return found


def _field(data: bytes, at: int, stop: int) -> tuple[int, int, int, int]:
    """(field number, wire type, start, stop) of the field at ``at`` of a message that ends at ``stop``.

    Start to stop is the content of a length-delimited or fixed field, the encoded number of a varint.
    """
    tag, at = data[at], at + 1
    if tag > 0x7F:
        tag, at = _varint(data, at - 1)
    wire = tag & 7
    if wire == _LENGTH:
        length, at = data[at], at + 1
        if length > 0x7F:
            length, at = _varint(data, at - 1)
        end = at + length
    elif wire == _VARINT:
        _, end = _varint(data, at)
    elif wire in (_FIXED32, _FIXED64):
        end = at + (4 if wire == _FIXED32 else 8)
    else:
        raise _damaged(f"a field has wire type {wire}")
    if end > stop:
        raise _damaged("a field reaches beyond its message")
    return tag >> 3, wire, at, end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, offset behind it) of the variable-length integer at ``at``."""
    byte = data[at]
    value, shift = byte & 0x7F, 0
    while byte > 0x7F:
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise _damaged("a number does not end")
        byte = data[at]
        value |= (byte & 0x7F) << shift
    return value, at + 1


def _numbers(data: bytes, at: int, stop: int, kind: int) -> list[np.ndarray]:
    """The pieces of the list of numbers in ``data[at:stop]``: most often one."""
    read, unpacked = (_floats, _FIXED32) if kind == _FLOATS else (_varints, _VARINT)
    number, start = _only(data, at, stop)
    if number == 1:
        return [read(data, start, stop)]
    found = []
    while at < stop:
        number, wire, start, at = _field(data, at, stop)
        if number == 1 and wire in (_LENGTH, unpacked):
            found.append(read(data, start, at))
    return found


def _floats(data: bytes, at: int, stop: int) -> np.ndarray:
    if (stop - at) % 4:
        raise _damaged("a list of floats is no whole number of them")
    return np.frombuffer(data, _DTYPES[_FLOATS], (stop - at) // 4, at)


def _varints(data: bytes, at: int, stop: int) -> np.ndarray:
    """int64 [n] out of the n variable-length integers in ``data[at:stop]``."""
    encoded = data[at:stop]
    digits = np.frombuffer(encoded, np.uint8)
    if encoded.isascii():  # none above 127, as flags are
        return digits.astype(np.int64)
    stops = np.flatnonzero(digits < 0x80) + 1
    if not len(stops) or stops[-1] != len(digits):
        raise _damaged("a number does not end")
    starts = np.concatenate([[0], stops[:-1]])
    lengths = stops - starts
    if lengths.max() > 10:
        raise _damaged("a number does not end")
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    shifted = (digits & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(shifted, starts).view(np.int64)


def _damaged(why: str) -> SourceError:
    return SourceError(f"the record is no tf.train.Example: {why}", code="damaged_example")
