"""Fields out of one channel's messages, whatever they are serialised as: ROS 1, CDR, JSON or Protocol Buffers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import json_text
from data_engine.formats.bag.decode import Decode, decoder
from data_engine.formats.bag.definitions import Leaf, Types, leaves, normal, parse

__all__ = ["Channel", "Codec", "codec"]

_JSON_BYTES = 64 << 20
_DEPTH = 32
_SCALARS = {
    1: "int32",
    2: "int64",
    3: "uint32",
    4: "uint64",
    5: "float64",
    6: "float32",
    7: "bool",
    8: "int32",
    9: "string",
}
"""Protocol Buffers' ``cpp_type`` -> numpy's name."""


@dataclass(frozen=True)
class Channel:
    """One stream of messages of one type. ``encoding`` is of the messages (``ros1``, ``cdr``, ``json``, ``protobuf``),
    ``schema_encoding`` of the definition (``ros1msg``, ``ros2msg``, ``ros2idl``, ``protobuf``, ``jsonschema``, or
    empty where there is none).
    """

    topic: str
    type: str
    encoding: str
    schema_encoding: str
    schema: bytes

    @property
    def kind(self) -> str:
        """The type's own name: ``JointState`` of ``sensor_msgs/msg/JointState``."""
        return self.type.replace(".", "/").rsplit("/", 1)[-1]


class Codec(ABC):
    """How one channel's messages are read."""

    @abstractmethod
    def leaves(self, sample: bytes) -> list[Leaf]:
        """The values of a message, in order. ``sample`` is a message, for encodings whose types lie in its values."""

    @abstractmethod
    def reader(self, paths: Sequence[str]) -> Decode:
        """A reader of the values at ``paths``; see :func:`data_engine.formats.bag.decode.decoder`."""

    def leaf(self, path: str, sample: bytes) -> Leaf:
        """What lies at ``path``. Raises ``SourceError`` (``no_field``) where that is no value."""
        value = self.reader([path])(sample)[0]
        if value is None:
            raise SourceError(f"the first message has nothing at {path}", code="no_field")
        return _of_value(path, value)


@lru_cache(maxsize=256)
def codec(channel: Channel) -> Codec:
    """The codec of ``channel``. Raises ``SourceError`` for an encoding or a definition that is not read."""
    if channel.encoding in ("ros1", "cdr"):
        if channel.schema_encoding not in ("ros1msg", "ros2msg"):
            raise SourceError(
                f"{channel.topic}: its definition comes as {channel.schema_encoding or 'nothing'}, which is not read",
                code="bad_definition",
            )
        text = str(channel.schema, "utf-8", "backslashreplace")
        return _Ros(parse(text, channel.type, 1 if channel.encoding == "ros1" else 2), channel)
    if channel.encoding == "json":
        return _Json(channel)
    if channel.encoding == "protobuf" and channel.schema_encoding == "protobuf":
        return _Protobuf(channel)
    raise SourceError(f"{channel.topic}: messages in {channel.encoding!r} are not read", code="bad_encoding")


class _Ros(Codec):
    def __init__(self, types: Types, channel: Channel) -> None:
        self.types, self.root, self.cdr = types, normal(channel.type), channel.encoding == "cdr"

    def leaves(self, sample: bytes) -> list[Leaf]:
        return list(leaves(self.types, self.root))

    def reader(self, paths: Sequence[str]) -> Decode:
        return decoder(self.types, self.root, paths, self.cdr)

    def leaf(self, path: str, sample: bytes) -> Leaf:
        """By the definition where it says, an entry of an array of messages by its own."""
        *above, name = path.split(".")
        at = self.root
        for part in above:
            if part.isdecimal():
                continue
            at = next((field.type for field in self.types.get(at, ()) if field.name == part), "")
        found = next((leaf for leaf in leaves(self.types, at) if leaf.path == name), None) if at in self.types else None
        if found is None:
            self.reader([path])  # says what is wrong
            raise SourceError(f"{self.root} has no value at {path}", code="no_field")
        return Leaf(path, found.dtype, found.length, found.time)


class _Json(Codec):
    def __init__(self, channel: Channel) -> None:
        self.topic = channel.topic

    def leaves(self, sample: bytes) -> list[Leaf]:
        return list(_walked(self._parsed(sample), ""))

    def reader(self, paths: Sequence[str]) -> Decode:
        split = [path.split(".") for path in paths]

        def decode(data: Any) -> list[Any]:
            message = self._parsed(data)
            return [_json_value(_at(message, path)) for path in split]

        return decode

    def _parsed(self, data: Any) -> Any:
        try:
            if len(data) > _JSON_BYTES:
                raise ValueError(f"it is {len(data) >> 20} MiB long")
            return json_text.loads(bytes(data))
        except ValueError as error:
            raise SourceError(f"a message of {self.topic} is no JSON: {error}", code="bad_message") from None


def _at(message: Any, path: Sequence[str]) -> Any:
    for name in path:
        if isinstance(message, dict):
            message = message.get(name)
        elif isinstance(message, list) and name.isdecimal() and int(name[:9]) < len(message):
            message = message[int(name)]
        else:
            return None
    return message


def _json_value(value: Any) -> Any:
    """Numbers as float64 (JSON has one kind), lists of numbers as arrays, ``{sec, nsec}`` as nanoseconds."""
    if isinstance(value, dict):
        return _nanoseconds(value)
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return _float(value)
    if isinstance(value, list):
        if all(isinstance(item, int | float) for item in value):
            return np.array([_float(item) for item in value], np.float64)
        return tuple(value) if all(isinstance(item, str) for item in value) else None
    return None


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise SourceError("a message holds a number beyond float64", code="bad_message") from None


def _nanoseconds(value: dict[str, Any]) -> int | None:
    seconds = value.get("sec", value.get("secs"))
    part = value.get("nsec", value.get("nanosec", value.get("nsecs")))
    return seconds * 1_000_000_000 + part if type(seconds) is int and type(part) is int else None


def _walked(value: Any, prefix: str, depth: int = 0) -> Iterator[Leaf]:
    if not isinstance(value, dict) or depth > _DEPTH:
        return
    for name, inner in value.items():
        if "." in name:
            continue
        found = _json_value(inner)
        if found is not None:
            yield _of_value(prefix + name, found, time=isinstance(inner, dict))
        elif isinstance(inner, dict):
            yield from _walked(inner, f"{prefix}{name}.", depth + 1)


def _of_value(path: str, value: Any, time: bool = False) -> Leaf:
    if isinstance(value, np.ndarray):
        return Leaf(path, value.dtype.name, -1)
    if isinstance(value, tuple):
        return Leaf(path, "string", -1)
    if isinstance(value, str):
        return Leaf(path, "string")
    if isinstance(value, bool):
        return Leaf(path, "bool")
    return Leaf(path, "int64" if isinstance(value, int) else "float64", time=time)


class _Protobuf(Codec):
    def __init__(self, channel: Channel) -> None:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        try:
            files = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(channel.schema).file}
            pool, added = descriptor_pool.DescriptorPool(), set()

            def add(name: str, depth: int = 0) -> None:
                if name in added or name not in files or depth > 64:
                    return
                added.add(name)
                for other in files[name].dependency:
                    add(other, depth + 1)
                pool.Add(files[name])

            for name in files:
                add(name)
            self.descriptor = pool.FindMessageTypeByName(channel.type)
            self.make = message_factory.GetMessageClass(self.descriptor)
        except Exception as error:  # the library raises its own, TypeError and KeyError, by its back end
            raise SourceError(
                f"{channel.topic}: its Protocol Buffers schema is broken: {error}", code="bad_definition"
            ) from None
        self.topic = channel.topic

    def leaves(self, sample: bytes) -> list[Leaf]:
        return list(self._walk(self.descriptor, "", 0))

    def _walk(self, descriptor: Any, prefix: str, depth: int) -> Iterator[Leaf]:
        if depth > 8:  # a message may hold itself
            return
        for field in descriptor.fields:
            path, many = prefix + field.name, bool(field.is_repeated)
            if field.message_type is None:
                yield Leaf(
                    path,
                    "uint8" if _is_bytes(field) else _SCALARS[field.cpp_type],
                    -1 if many or _is_bytes(field) else None,
                )
            elif not many and _is_time(field.message_type):
                yield Leaf(path, "int64", time=True)
            elif not many:
                yield from self._walk(field.message_type, f"{path}.", depth + 1)

    def leaf(self, path: str, sample: bytes) -> Leaf:
        descriptor, found = self.descriptor, None
        for part in path.split("."):
            if part.isdecimal() and found is not None:
                continue
            found = descriptor.fields_by_name.get(part) if descriptor is not None else None
            if found is None:
                raise SourceError(f"{self.descriptor.full_name} has no field {path!r}", code="no_field")
            descriptor = found.message_type
        if found is None or (descriptor is not None and not _is_time(descriptor)):
            raise SourceError(f"{path} is no value of {self.descriptor.full_name}", code="no_field")
        if descriptor is not None:
            return Leaf(path, "int64", time=True)
        data = _is_bytes(found)
        return Leaf(path, "uint8" if data else _SCALARS[found.cpp_type], -1 if data or found.is_repeated else None)

    def reader(self, paths: Sequence[str]) -> Decode:
        split = [path.split(".") for path in paths]

        def decode(data: Any) -> list[Any]:
            try:
                message = self.make.FromString(bytes(data))
            except Exception as error:  # DecodeError, by its back end
                raise SourceError(
                    f"a message of {self.topic} does not fit its schema: {error}", code="bad_message"
                ) from None
            return [self._value(message, path) for path in split]

        return decode

    def _value(self, message: Any, path: Sequence[str]) -> Any:
        field = None
        for name in path:
            if name.isdecimal() and field is not None:
                if int(name[:9]) >= len(message):
                    return None
                message = message[int(name)]
                continue
            field = message.DESCRIPTOR.fields_by_name.get(name) if hasattr(message, "DESCRIPTOR") else None
            if field is None:
                raise SourceError(f"{self.descriptor.full_name} has no field {'.'.join(path)!r}", code="no_field")
            message = getattr(message, name)
        if isinstance(message, bytes):
            return np.frombuffer(message, np.uint8)
        if field is not None and field.message_type is None and field.is_repeated and not hasattr(message, "encode"):
            kind = _SCALARS[field.cpp_type]
            return tuple(message) if kind == "string" else np.array(message, kind)
        if hasattr(message, "DESCRIPTOR"):
            return message.seconds * 1_000_000_000 + message.nanos if _is_time(message.DESCRIPTOR) else None
        return message


def _is_bytes(field: Any) -> bool:
    return field.type == field.TYPE_BYTES


def _is_time(descriptor: Any) -> bool:
    return descriptor.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration")
