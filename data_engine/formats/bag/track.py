"""What an episode keeps of one topic: its stamps, the values of its mapped fields, and where its images lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from data_engine.errors import RequestError, SourceError
from data_engine.formats.arrays import EPISODE_BYTES
from data_engine.formats.bag.codec import Channel, codec
from data_engine.formats.bag.container import Message, Where
from data_engine.formats.bag.decode import Decode

__all__ = ["Field", "Track", "field_of", "split", "stamp_path"]

_NAMES = {"JointState": "name", "JointTrajectory": "joint_names"}
_STAMPS = ("header.stamp", "timestamp")
_Reader = tuple[Decode, int | None, tuple[tuple[int, ...], ...]]


def split(text: str, topics: Iterable[str]) -> tuple[str, str]:
    """(topic, path of a field or empty) that ``text`` names: ``/arm/joint_states.position``.

    A topic ends at a dot; of topics that themselves hold dots the longest that fits is meant. Raises ``RequestError``
    for a topic that is not there.
    """
    topics = list(topics)
    fits = [topic for topic in topics if text == topic or text.startswith(f"{topic}.")]
    if not fits:
        raise RequestError(
            f"the map names {text!r}, and no topic is called so",
            code="no_topic",
            fix=f"known: {', '.join(sorted(topics))}",
        )
    topic = max(fits, key=len)
    return topic, text[len(topic) + 1 :]


def stamp_path(channel: Channel, sample: bytes) -> str | None:
    """The field that holds the time of measuring, where the type has one."""
    times = {leaf.path for leaf in codec(channel).leaves(sample) if leaf.time}
    return next((path for path in _STAMPS if path in times), None)


@dataclass(frozen=True)
class Field:
    """One mapped field: ``paths`` of one value, or of all numbers of a nested message in order.

    ``width``: entries of the whole, None for a single value. ``start`` to ``stop`` are those taken. ``joints`` names
    the whole's entries where messages carry names beside the values: entries are then taken by name.
    """

    topic: str
    paths: tuple[str, ...]
    dtype: str
    width: int | None
    start: int = 0
    stop: int | None = None
    joints: tuple[str, ...] | None = None
    names_path: str | None = None
    labels: tuple[str, ...] | None = None

    @property
    def size(self) -> int | None:
        """Entries a step, None for a single value."""
        return None if self.width is None else len(range(self.width)[self.start : self.stop])

    @property
    def components(self) -> tuple[str, ...] | None:
        """Names of the entries taken, where they have any."""
        names = self.joints or self.labels
        return None if names is None else names[self.start : self.stop]

    def __str__(self) -> str:
        path = f".{self.paths[0]}" if len(self.paths) == 1 else f" ({', '.join(self.paths)})"
        stop = "" if self.stop is None else self.stop
        return f"{self.topic}{path}" + (f"[{self.start}:{stop}]" if self.start or self.stop is not None else "")

    @property
    def needs(self) -> tuple[str, ...]:
        """Every path of a message that the field is read from."""
        return (*self.paths, *([self.names_path] if self.joints and self.names_path else []))

    def take(self, values: Sequence[Any]) -> Any:
        """The field's value out of a message's at ``needs``; None where it holds another width or joints."""
        found = values[0] if len(self.paths) == 1 else _flat(values)
        if self.width is None:
            return found if not isinstance(found, np.ndarray | tuple) else None
        if not isinstance(found, np.ndarray):
            return None
        if self.joints is not None and values[-1] != self.joints:
            turned = _turned(values[-1], self.joints)
            if turned is None or len(found) != len(turned):
                return None
            found = found[list(turned)]
        if len(found) != self.width:
            return None
        return np.array(found[self.start : self.stop])  # a copy: the message's bytes are let go


@lru_cache(maxsize=1024)
def _turned(names: tuple[str, ...] | None, wanted: tuple[str, ...]) -> tuple[int, ...] | None:
    """Where ``wanted`` lie in ``names``, None where they are not the same set."""
    if names is None or len(names) != len(wanted) or set(names) != set(wanted):
        return None
    return tuple(names.index(name) for name in wanted)


def _flat(values: Sequence[Any]) -> np.ndarray | None:
    if any(value is None for value in values):
        return None
    return np.concatenate([np.atleast_1d(value) for value in values])


def field_of(channel: Channel, sample: bytes, path: str, start: int = 0, stop: int | None = None) -> Field:
    """The field at ``path`` of a channel by a first message; an empty path is the whole message but its header.

    Raises ``SourceError`` for what is no number, vector of numbers or text, and for an empty one: its width is unknown.
    """
    reader = codec(channel)
    leaves = reader.leaves(sample)
    inside = [leaf for leaf in leaves if not path or leaf.path.startswith(f"{path}.")]
    if not path:
        inside = [leaf for leaf in inside if not leaf.path.startswith("header.") and not leaf.time]
    if inside and path not in {leaf.path for leaf in leaves}:
        odd = next((leaf for leaf in inside if leaf.dtype == "string" or leaf.length == -1 or leaf.time), None)
        if odd is not None:
            raise SourceError(
                f"{channel.topic}.{path} is more than numbers: it holds {odd.path}".replace(". ", " "),
                code="no_field",
                fix=f"name a field: {', '.join(f'{channel.topic}.{leaf.path}' for leaf in inside[:8])}",
            )
        sizes = [1 if leaf.length is None else leaf.length for leaf in inside]
        short = [leaf.path.removeprefix(f"{path}.") for leaf in inside]
        labels = tuple(
            name if leaf.length is None else f"{name}.{i}"
            for name, leaf, size in zip(short, inside, sizes, strict=True)
            for i in range(size)
        )
        dtype = np.result_type(*(np.dtype(leaf.dtype) for leaf in inside)).name
        found = Field(channel.topic, tuple(leaf.path for leaf in inside), dtype, sum(sizes), start, stop, labels=labels)
    else:
        found = _single(channel, sample, path, start, stop)
    if found.width is None and (start or stop is not None):
        raise SourceError(f"{channel.topic}.{path} is one value and has no range", code="bad_range")
    if found.width is not None and (not found.size or (stop or 0) > found.width):
        raise SourceError(f"{channel.topic}.{path}[{start}:{stop}] leaves its {found.width} entries", code="bad_range")
    return found


def _single(channel: Channel, sample: bytes, path: str, start: int, stop: int | None) -> Field:
    reader = codec(channel)
    if not path:
        raise SourceError(f"{channel.topic} has no numbers: name a field", code="no_field")
    leaf = reader.leaf(path, sample)
    value = reader.reader([path])(sample)[0]
    if value is None or isinstance(value, tuple):
        raise SourceError(f"{channel.topic}.{path} has no value in its first message, or texts", code="no_field")
    if not isinstance(value, np.ndarray):
        return Field(channel.topic, (path,), leaf.dtype, None, start, stop)
    if not len(value):
        raise SourceError(
            f"{channel.topic}.{path} is empty in its first message: its width is not known", code="empty_field"
        )
    joints, names = None, _NAMES.get(channel.kind)
    if names is not None and names in {leaf.path for leaf in reader.leaves(sample)}:
        found = reader.reader([names])(sample)[0]
        if len(found) == len(value) == len(set(found)):
            joints = tuple(found)
    return Field(channel.topic, (path,), leaf.dtype, len(value), start, stop, joints, names if joints else None)


@dataclass
class Track:
    """One topic of one episode, in stored order."""

    fields: tuple[Field, ...] = ()
    keep_where: bool = False
    logged: list[int] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    stamped: list[int] = field(default_factory=list)
    where: list[Where] = field(default_factory=list)
    rows: list[list[Any]] = field(init=False)  # by field
    taken: list[list[int]] = field(init=False)  # which messages the rows are of
    _bytes: int = 0
    _readers: dict[int, _Reader] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = [[] for _ in self.fields]
        self.taken = [[] for _ in self.fields]

    def add(self, message: Message, channel: Channel) -> None:
        """Take in one message. Raises ``SourceError`` where it does not fit its definition, and beyond 4 GiB."""
        if message.channel not in self._readers:
            self._readers[message.channel] = self._reader(message, channel)
        read, stamp, slots = self._readers[message.channel]
        values = read(message.data)
        at = len(self.logged)
        self.logged.append(message.logged)
        self.published.append(message.published or 0)
        self.stamped.append(0 if stamp is None else values[stamp] or 0)
        if self.keep_where:
            self.where.append(message.where)
        for one, needed, rows, taken in zip(self.fields, slots, self.rows, self.taken, strict=True):
            row = one.take([values[slot] for slot in needed])
            if row is not None:
                rows.append(row)
                taken.append(at)
                self._bytes += getattr(row, "nbytes", 8)
        if self._bytes > EPISODE_BYTES:
            raise SourceError(f"{channel.topic} holds more than {EPISODE_BYTES >> 30} GiB of values", code="too_large")

    def _reader(self, message: Message, channel: Channel) -> _Reader:
        """(reader of a channel's messages, slot of the stamp, slots of each field)."""
        stamp = stamp_path(channel, message.data)
        needed = [*([stamp] if stamp else []), *(path for one in self.fields for path in one.needs)]
        paths = list(dict.fromkeys(needed))
        slots = tuple(tuple(paths.index(path) for path in one.needs) for one in self.fields)
        return codec(channel).reader(paths) if paths else lambda _: [], 0 if stamp else None, slots

    def stamps(self, kind: str) -> np.ndarray:
        """int64 nanoseconds of each message by ``header``, ``log`` or ``publish``. Raises ``SourceError`` for a time
        before 1970 or after 2116.
        """
        stamps = {"header": self.stamped, "log": self.logged, "publish": self.published}[kind]
        if stamps and not 0 <= min(stamps) <= max(stamps) < 1 << 62:
            raise SourceError(f"messages are stamped {min(stamps)} to {max(stamps)} ns", code="bad_message")
        return np.array(stamps, np.int64)

    @property
    def has_headers(self) -> bool:
        """Whether every message has a stamp that is not zero."""
        return bool(self.stamped) and all(self.stamped)
