"""Where recordings lie in a source: one file, a ROS 2 folder with ``metadata.yaml``, or a folder of either."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data_engine.errors import EngineError, SourceError
from data_engine.formats import Source
from data_engine.formats.arrays import natural
from data_engine.formats.bag import mcap, ros1, sqlite
from data_engine.formats.bag.codec import Channel
from data_engine.formats.bag.container import Bag, Message, Where
from data_engine.formats.bag.mcap import McapBag
from data_engine.formats.bag.ros1 import Ros1Bag
from data_engine.formats.bag.sqlite import SqliteBag
from data_engine.formats.files import below, member

__all__ = ["Recording", "opened", "recordings"]

SUFFIXES = (".bag", ".mcap", ".db3")
_PACKED = (".db3.zstd", ".mcap.zstd")
_METADATA = "metadata.yaml"
_METADATA_BYTES = 4 << 20


@dataclass(frozen=True)
class Recording:
    """One recording: its ``key`` and its files in order, relative to the source. ``zstd``: message by message."""

    key: str
    files: tuple[str, ...]
    zstd: bool = False
    notes: tuple[str, ...] = ()


def recordings(source: Source) -> list[Recording]:
    """The recordings of ``source`` in natural order; empty where there are none.

    A file is told by its first bytes, in a folder by its suffix. A folder with ``metadata.yaml`` is one recording.
    Raises ``SourceError`` for a file that only its suffix calls a bag, and for a ``metadata.yaml`` that is broken.
    """
    if source.is_file:
        name = source.relative(source.root)
        if _kind(source) is not None:
            return [Recording(name, (name,))]
        if name.lower().endswith(SUFFIXES):
            raise SourceError(f"{source.uri} is empty, cut or another kind of file", code="bad_bag")
        return []
    paths = below(source, (*SUFFIXES, *_PACKED))
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(posixpath.dirname(path), []).append(path)
    found: list[Recording] = []
    for folder, inside in folders.items():
        if source.exists(*filter(None, [folder]), _METADATA):
            found.append(_described(source, folder, inside))
        else:
            found += [Recording(path, (path,)) for path in inside]
    return sorted(found, key=lambda recording: natural(recording.key))


def _described(source: Source, folder: str, inside: list[str]) -> Recording:
    """A ROS 2 folder by what its ``metadata.yaml`` says; files are looked for beside it, by their name alone."""
    import yaml

    where = posixpath.join(folder, _METADATA)
    key = folder or posixpath.basename(source.root)
    if source.stamp(where)[0] > _METADATA_BYTES:
        raise SourceError(f"{where} is larger than {_METADATA_BYTES >> 20} MiB", code="bad_bag")
    with source.open(where) as file:
        data = file.read(_METADATA_BYTES)
    try:
        parsed: Any = yaml.safe_load(data)
        facts = parsed["rosbag2_bagfile_information"]
        names = [posixpath.basename(str(path)) for path in facts["relative_file_paths"]]
        mode, how = str(facts.get("compression_mode") or "").lower(), str(facts.get("compression_format") or "")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"{where} describes no bag: {type(error).__name__}", code="bad_bag") from None
    listed = [posixpath.join(folder, name) for name in names]
    notes = [f"{path} is listed in {where} and absent" for path in listed if path not in inside]
    notes += [f"{path} is not listed in {where} and is not read" for path in inside if path not in listed]
    files = tuple(path for path in listed if path in inside)
    if mode == "file" or any(path.lower().endswith(_PACKED) for path in files):
        raise SourceError(f"the files of {key} are compressed whole", code="packed_bag", fix="unzstd them first")
    if mode == "message" and how != "zstd":
        raise SourceError(f"the messages of {key} are compressed by {how!r}, which is not read", code="packed_bag")
    return Recording(key, files, mode == "message", tuple(notes))


def _kind(source: Source) -> type[Ros1Bag] | type[McapBag] | type[SqliteBag] | None:
    head = source.fs.cat_file(source.root, start=0, end=16)
    if head.startswith(ros1.MAGIC):
        return Ros1Bag
    if head.startswith(mcap.MAGIC):
        return McapBag
    named = source.root.lower().endswith(".db3")  # any program may have a database
    return SqliteBag if named and head.startswith(sqlite.MAGIC) else None


@contextmanager
def opened(source: Source, recording: Recording) -> Iterator[Joined]:
    """The files of a recording as one bag. Raises ``SourceError`` where one cannot be opened."""
    bags: list[Bag] = []
    try:
        if not recording.files:
            raise SourceError(f"{recording.key} has none of its files", code="missing_file")
        for path in recording.files:
            file = member(source, path)
            try:
                kind = _kind(file)
            except (OSError, EngineError) as error:
                raise SourceError(f"{path} cannot be read: {error}", code="missing_file") from None
            if kind is None:
                raise SourceError(f"{path} is empty, cut or another kind of file", code="bad_bag")
            bags.append(kind(file, zstd=recording.zstd) if kind is SqliteBag else kind(file))
        yield Joined(bags, recording)
    finally:
        for bag in bags:
            bag.close()


class Joined(Bag):
    """Several files read as one; channels are those of all, by topic."""

    def __init__(self, bags: list[Bag], recording: Recording) -> None:
        self.bags = bags
        self.notes = [*recording.notes, *(note for bag in bags for note in bag.notes)]
        self.has_published = all(bag.has_published for bag in bags)
        keys = [(at, number) for at, bag in enumerate(bags) for number in bag.channels]
        self._numbers = {key: number for number, key in enumerate(keys)}
        self.channels = {number: bags[at].channels[inner] for (at, inner), number in self._numbers.items()}

    def of(self, topics: Collection[str]) -> dict[int, Channel]:
        """The channels of ``topics``."""
        return {number: channel for number, channel in self.channels.items() if channel.topic in topics}

    def messages(
        self, channels: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        """See :meth:`Bag.messages`."""
        for at, bag in enumerate(self.bags):
            ours = {inner: number for (b, inner), number in self._numbers.items() if b == at and number in channels}
            if not ours:
                continue
            for message in bag.messages(ours, start, stop):
                number = ours[message.channel]
                if number in channels:
                    _, logged, published, where, data = message
                    yield Message(number, logged, published, (at, *where), data)

    def load(self, where: Where) -> bytes:
        """See :meth:`Bag.load`."""
        return self.bags[where[0]].load(where[1:])

    def close(self) -> None:
        """See :meth:`Bag.close`."""
        for bag in self.bags:
            bag.close()
