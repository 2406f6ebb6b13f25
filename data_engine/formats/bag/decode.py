"""Fields out of serialised ROS messages: ROS 1's packed bytes and the CDR of ROS 2, by following a definition.

A decoder is made once for a type and the paths wanted of it; everything else is stepped over, and what lies behind the
last wanted field is never looked at. Nothing is allocated by a declared length that the message's own bytes do not
cover.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats.bag.definitions import PRIMITIVES, SPECIAL, Field, Types, normal

__all__ = ["Decode", "decoder"]

Decode = Callable[[Any], list[Any]]
"""Bytes of a message -> its value at each path asked for: a number, text, or an array of numbers or tuple of texts."""

_Step = Callable[[Any, int, list[Any]], int]  # (bytes, position, values by slot) -> position behind the field
_Wanted = Mapping[str, Any]  # field or index -> slot, or a deeper _Wanted


def decoder(types: Types, root: str, paths: Sequence[str], cdr: bool) -> Decode:
    """A decoder of messages of type ``root``. A path is dotted, with numbers for entries of arrays of messages:
    ``header.stamp``, ``position``, ``points.0.positions``; an entry beyond the array gives None.

    Times are whole nanoseconds. Arrays of numbers are views into the message. Raises ``SourceError`` for a path that is
    not there; the decoder itself raises it for a message that its definition does not fit.
    """
    wanted = _tree(paths)
    root = normal(root)
    programs = {order: _Compiler(types, order, cdr).steps(root, wanted, True) for order in ("<>" if cdr else "<")}

    def decode(data: Any) -> list[Any]:
        values: list[Any] = [None] * len(paths)
        order, position = "<", 0
        if cdr:
            if len(data) < 4 or data[0] or data[1] > 1:
                raise SourceError(f"a message of {root} is not plain CDR", code="bad_message")
            order, data = "<" if data[1] else ">", memoryview(data)[4:]
        try:
            for step in programs[order]:
                position = step(data, position, values)
        except (struct.error, ValueError, IndexError, OverflowError) as error:
            raise SourceError(f"a message of {root} does not fit its definition: {error}", code="bad_message") from None
        if position > len(data):
            raise SourceError(f"a message of {root} is shorter than its definition", code="bad_message")
        return values

    return decode


def _tree(paths: Sequence[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for slot, path in enumerate(paths):
        *above, last = path.split(".")
        branch = tree
        for name in above:
            branch = branch.setdefault(name, {})
            if not isinstance(branch, dict):
                raise SourceError(f"{path} is asked for beside a value that it is part of", code="no_field")
        if last in branch:
            raise SourceError(f"{path} is asked for twice", code="no_field")
        branch[last] = slot
    return tree


class _Compiler:
    """Steps for the types of one definition in one byte order."""

    def __init__(self, types: Types, order: str, cdr: bool) -> None:
        self.types, self.order, self.cdr = types, order, cdr
        self._count = struct.Struct(f"{order}I").unpack_from
        self._skips: dict[str, _Step] = {}
        self._sizes: dict[str, int | None] = {}

    def steps(self, name: str, wanted: _Wanted, root: bool = False) -> list[_Step]:
        """The steps through a type; of the root type only those up to the last wanted field."""
        fields = self.types[name]
        known = [field.name for field in fields]
        for path in wanted:
            if path not in known:
                raise SourceError(f"{name} has no field {path!r}; it has {', '.join(known) or 'none'}", code="no_field")
        if root:
            fields = fields[: max((known.index(path) for path in wanted), default=-1) + 1]
        return [self._field(field, wanted.get(field.name), name) for field in fields]

    def _field(self, field: Field, wanted: int | _Wanted | None, owner: str) -> _Step:
        if wanted is None:
            return self._skip(field)
        leaf = field.type in PRIMITIVES or field.type in SPECIAL
        if isinstance(wanted, int):
            if not leaf:
                raise SourceError(f"{owner}.{field.name} is no value but a {field.type}", code="no_field")
            return self._value(field, wanted)
        if leaf:
            raise SourceError(f"{owner}.{field.name} is a value and has no parts", code="no_field")
        if field.length is None:
            return _sequence_of_steps(self.steps(field.type, wanted))
        return self._entries(field, wanted)

    def _entries(self, field: Field, wanted: _Wanted) -> _Step:
        """An array of messages of which some entries are wanted."""
        if not all(index.isdecimal() and len(index) < 6 for index in wanted):
            raise SourceError(f"{field.name} is an array: name an entry, as in {field.name}.0", code="no_field")
        ours = {
            int(index): _sequence_of_steps(self.steps(field.type, part))
            for index, part in wanted.items()
            if isinstance(part, dict)
        }
        if len(ours) < len(wanted):
            raise SourceError(f"{field.name} holds messages: name a field of the entry", code="no_field")
        skip, counted = self._skip(Field("", field.type)), self._counted(field)

        def step(data: Any, at: int, values: list[Any]) -> int:
            count, at = counted(data, at)
            for index in range(count):
                at = ours.get(index, skip)(data, at, values)
                if at > len(data):
                    raise ValueError("it is too short")
            return at

        return step

    def _counted(self, field: Field) -> Callable[[Any, int], tuple[int, int]]:
        """Number of entries and the position of the first; never more entries than the message has bytes."""
        unpack, cdr, fixed = self._count, self.cdr, field.length

        def counted(data: Any, at: int) -> tuple[int, int]:
            if fixed is not None and fixed >= 0:
                count = fixed
            else:
                if cdr:
                    at = (at + 3) & -4
                count, at = unpack(data, at)[0], at + 4
            if count > len(data):
                raise ValueError(f"{count} entries in {len(data)} bytes")
            return count, at

        return counted

    def _value(self, field: Field, slot: int) -> _Step:
        kind = field.type
        if kind in ("string", "wstring"):
            return self._strings(field, slot)
        if kind in ("time", "duration"):
            if field.length is not None:
                raise SourceError(f"{field.name} is an array of times, which has no column form", code="no_field")
            whole = "i" if self.cdr or kind == "duration" else "I"
            part = "i" if not self.cdr and kind == "duration" else "I"
            unpack_time, cdr = struct.Struct(self.order + whole + part).unpack_from, self.cdr

            def time(data: Any, at: int, values: list[Any]) -> int:
                if cdr:
                    at = (at + 3) & -4
                seconds, nanoseconds = unpack_time(data, at)
                values[slot] = seconds * 1_000_000_000 + nanoseconds
                return at + 8

            return time
        letter = PRIMITIVES[kind]
        size = struct.calcsize("=" + letter)
        mask = size - 1 if self.cdr else 0
        if field.length is None:
            unpack = struct.Struct(self.order + letter).unpack_from

            def number(data: Any, at: int, values: list[Any]) -> int:
                at = (at + mask) & ~mask
                values[slot] = unpack(data, at)[0]
                return at + size

            return number
        dtype, counted, flag = (
            np.dtype(self.order + letter if size > 1 else letter),
            self._counted(field),
            letter == "?",
        )
        stored = np.dtype("u1") if flag else dtype

        def numbers(data: Any, at: int, values: list[Any]) -> int:
            count, at = counted(data, at)
            if not count:
                values[slot] = np.empty(0, dtype)
                return at
            at = (at + mask) & ~mask
            found = np.frombuffer(data, stored, count, at)
            values[slot] = found != 0 if flag else found
            return at + count * size

        return numbers

    def _strings(self, field: Field, slot: int) -> _Step:
        one = self._text()
        if field.length is None:

            def text(data: Any, at: int, values: list[Any]) -> int:
                values[slot], at = one(data, at)
                return at

            return text
        counted, cdr = self._counted(field), self.cdr
        last: tuple[bytes, tuple[str, ...]] = (b"", ())  # joint names, say, are the same in every message

        def texts(data: Any, at: int, values: list[Any]) -> int:
            nonlocal last
            if cdr:
                at = (at + 3) & -4
            held = len(last[0])
            if held and bytes(data[at : at + held]) == last[0]:
                values[slot] = last[1]
                return at + held
            start = at
            count, at = counted(data, at)
            found = []
            for _ in range(count):
                value, at = one(data, at)
                found.append(value)
            values[slot] = tuple(found)
            last = bytes(data[start:at]), values[slot]
            return at

        return texts

    def _text(self) -> Callable[[Any, int], tuple[str, int]]:
        unpack, cdr = self._count, self.cdr

        def text(data: Any, at: int) -> tuple[str, int]:
            if cdr:
                at = (at + 3) & -4
            length = unpack(data, at)[0]
            stop = at + 4 + length
            if stop > len(data):
                raise ValueError(f"a text of {length} bytes in {len(data)}")
            end = stop - 1 if cdr and length else stop  # CDR counts the closing zero
            return str(data[at + 4 : end], "utf-8", "backslashreplace"), stop

        return text

    def _skip(self, field: Field) -> _Step:
        if field.length is None:
            return self._skip_one(field.type)
        one, counted = self._skip_one(field.type), self._counted(field)
        size = self._size(field.type)
        if size is not None:  # entries of one size: a step over all of them
            aligned = size - 1 if self.cdr else 0

            def leap(data: Any, at: int, values: list[Any]) -> int:
                count, at = counted(data, at)
                return ((at + aligned) & ~aligned if count else at) + count * size

            return leap

        def walk(data: Any, at: int, values: list[Any]) -> int:
            count, at = counted(data, at)
            for _ in range(count):
                at = one(data, at, values)
                if at > len(data):
                    raise ValueError("it is too short")
            return at

        return walk

    def _skip_one(self, name: str) -> _Step:
        if name not in self._skips:
            self._skips[name] = self._skip_made(name)
        return self._skips[name]

    def _skip_made(self, name: str) -> _Step:
        if name == "wstring":
            raise SourceError("a field of type wstring, which implementations write differently", code="no_field")
        if name == "string":
            unpack, cdr = self._count, self.cdr

            def text(data: Any, at: int, values: list[Any]) -> int:
                if cdr:
                    at = (at + 3) & -4
                return at + 4 + unpack(data, at)[0]

            return text
        if name in PRIMITIVES or name in SPECIAL:
            size = 8 if name in SPECIAL else struct.calcsize("=" + PRIMITIVES[name])
            mask = (3 if name in SPECIAL else size - 1) if self.cdr else 0
            return lambda data, at, values: ((at + mask) & ~mask) + size
        whole = self._size(name)
        if whole is not None:
            return lambda data, at, values: at + whole
        return _sequence_of_steps([self._skip(field) for field in self.types[name]] or [_one_byte])

    def _size(self, name: str) -> int | None:
        """Bytes of every value of a type, None where they differ; a message's in CDR too, where it depends on what
        stands before it.
        """
        if name not in self._sizes:
            if name in PRIMITIVES:
                size: int | None = struct.calcsize("=" + PRIMITIVES[name])
            elif name in SPECIAL:
                size = 8 if name in ("time", "duration") and not self.cdr else None
            elif self.cdr:
                size = None
            else:
                size = 0
                for field in self.types[name]:
                    one = self._size(field.type)
                    if one is None or field.length == -1:
                        size = None
                        break
                    size += one * (1 if field.length is None else field.length)
            self._sizes[name] = size
        return self._sizes[name]


def _one_byte(data: Any, at: int, values: list[Any]) -> int:
    return at + 1  # an empty structure takes one byte in CDR


def _sequence_of_steps(steps: list[_Step]) -> _Step:
    def run(data: Any, at: int, values: list[Any]) -> int:
        for step in steps:
            at = step(data, at, values)
        return at

    return run
