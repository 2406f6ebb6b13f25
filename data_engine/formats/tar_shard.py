"""Tar shards of samples, as WebDataset writes them: files of one sample share their name up to the first point.

Headers are read once; a member is then a range of the file. Nothing is ever unpacked under a name out of the archive.
"""

from __future__ import annotations

import gzip
import io
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import IO

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.arrays import EPISODE_BYTES
from data_engine.formats.files import member

__all__ = ["SUFFIXES", "Member", "Sample", "Shard", "open_shard", "stem"]

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_HEADER_BYTES = 1 << 20  # a long name or an extended header larger than this is refused
_UNPACKED_BYTES = 64 << 30  # of one compressed shard
_BOMB_BYTES, _BOMB_RATIO = 256 << 20, 200  # recordings never shrink so far; zeros alone shrink to a 1032nd
_COPY = 1 << 20
_BLOCK = 512
_OCTAL = re.compile(rb"[0-7]+")


@dataclass(frozen=True)
class Member:
    """One file of a sample: ``size`` bytes at ``offset`` of the shard. ``extension``: what follows the first point."""

    extension: str
    offset: int
    size: int


@dataclass
class Sample:
    """The files of one key, by extension. ``problem`` says why it cannot be read."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    problem: str | None = None


class Shard:
    """An open shard and its index. ``notes``: what is wrong with it as a whole."""

    def __init__(self, file: IO[bytes], size: int, path: str) -> None:
        self.path, self._file, self._lock = path, file, Lock()
        self.notes: list[str] = []
        self.samples = self._index(size)

    def _index(self, size: int) -> list[Sample]:
        samples: list[Sample] = []
        seen: set[str] = set()
        try:
            with tarfile.open(fileobj=_Headers(self._file), mode="r:", errorlevel=1) as archive:
                for info in _walk(archive, self._file):
                    if not info.isdir():
                        self._add(samples, seen, info, size)
        except (tarfile.TarError, OSError, ValueError, SourceError) as error:
            if not samples:
                raise SourceError(
                    f"{self.path} is no tar: {error}", code="damaged_file", fix="copy it again"
                ) from error
            samples[-1].problem = samples[-1].problem or "the shard ends or breaks after it"
            self.notes.append(f"{self.path} cannot be read beyond sample {samples[-1].key!r}: {error}")
        return samples

    def _add(self, samples: list[Sample], seen: set[str], info: tarfile.TarInfo, size: int) -> None:
        folder, name = posixpath.split(info.name)
        if name.startswith("."):
            return  # a hidden file is nobody's sample
        stem, _, extension = name.partition(".")
        key, extension = posixpath.join(folder, stem), extension.lower()
        if not samples or samples[-1].key != key:
            samples.append(Sample(key))
            if key in seen:
                samples[-1].problem = "its files do not lie together"
            seen.add(key)
        sample = samples[-1]
        if info.name.startswith("/") or ".." in info.name.split("/") or "\0" in info.name or "\\" in info.name:
            sample.problem = f"the name {info.name!r} leaves the shard"
        elif not info.isreg() or info.issparse():
            sample.problem = f"{info.name} is a link, a device or sparse, not a plain file"
        elif info.offset_data + info.size > size:
            sample.problem = f"{info.name} declares {info.size} bytes, more than the shard has"
        elif extension in sample.members:
            sample.problem = f"it has two files {name!r}"
        else:
            sample.members[extension] = Member(extension, info.offset_data, info.size)

    def read(self, member: Member) -> bytes:
        """The bytes of a member. Raises ``SourceError`` for one that is too large or ends early."""
        if member.size > EPISODE_BYTES:
            raise SourceError(f"{member.extension} holds more than {EPISODE_BYTES >> 30} GiB", code="too_large")
        with self._lock:
            self._file.seek(member.offset)
            data = self._file.read(member.size)
        if len(data) != member.size:
            raise SourceError(f"{self.path} ends early", code="damaged")
        return data

    def copy(self, member: Member, path: str) -> None:
        """Write a member to a local file."""
        with self._lock, open(path, "wb") as out:
            self._file.seek(member.offset)
            for at in range(0, member.size, _COPY):
                out.write(self._file.read(min(_COPY, member.size - at)))


def _walk(archive: tarfile.TarFile, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Every member's header. Plain files with plain names are parsed here, ten times as fast; tarfile does the rest."""
    at = 0
    while True:
        file.seek(at)
        info = _plain_header(file.read(_BLOCK), at)
        if info is None:
            if at:  # else it gives the one that it has read to see what this is
                archive.offset, archive.firstmember = at, None  # type: ignore[attr-defined]
            info = archive.next()
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            if info is None:
                return
            at = archive.offset
        else:
            at = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
        yield info


def _plain_header(block: bytes, at: int) -> tarfile.TarInfo | None:
    """The header of a regular file in POSIX ustar form at ``at``; None for any other kind and for a wrong checksum."""
    if block[257:265] != b"ustar\x0000" or block[156:157] not in (b"0", b"\0") or len(block) != _BLOCK:
        return None
    size, checksum = block[124:136].strip(b"\0 "), block[148:156].strip(b"\0 ")
    if not _OCTAL.fullmatch(size) or not _OCTAL.fullmatch(checksum):
        return None
    if int(checksum, 8) != sum(block) - sum(block[148:156]) + 8 * 0x20:
        return None
    name, prefix = (
        part.split(b"\0", 1)[0].decode("utf-8", "surrogateescape") for part in (block[:100], block[345:500])
    )
    info = tarfile.TarInfo(f"{prefix}/{name}" if prefix else name)
    info.size, info.offset, info.offset_data = int(size, 8), at, at + _BLOCK
    return None if name.endswith("/") else info


class _Headers(io.RawIOBase):
    """What tarfile sees of the file while it walks the headers: no read of it is larger than a header may be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise SourceError(f"a header declares {size} bytes", code="too_large")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def open_shard(source: Source, path: str) -> Shard:
    """The shard at ``path`` of ``source``; the last two stay open, with their index, until their files change.

    A compressed one is unpacked into a temporary file. Raises ``SourceError`` where it is no tar, or unpacks to more
    than 64 GiB, or to more than 256 MiB and 200 times its size.
    """
    found = member(source, path)
    try:
        stamp = found.stamp()
    except FileNotFoundError as error:
        raise SourceError(f"{path} is not there", code="missing_file") from error
    return _opened(found.uri, path, stamp, os.getpid())


@lru_cache(maxsize=2)
def _opened(uri: str, path: str, stamp: tuple[int, str], process: int) -> Shard:
    file = Source(uri).open()
    head = file.read(2)
    file.seek(0)
    if head != b"\x1f\x8b":
        return Shard(file, stamp[0], path)
    unpacked = tempfile.TemporaryFile(prefix="data-engine-")  # noqa: SIM115  # gone with the shard
    with file:
        size = _unpack(file, unpacked, path)
    return Shard(unpacked, size, path)


def _unpack(file: IO[bytes], out: IO[bytes], path: str) -> int:
    """Bytes unpacked; of a damaged file, what comes before the damage."""
    size = 0
    room = min(_UNPACKED_BYTES, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            while piece := stream.read(_COPY):
                size += len(piece)
                if size > room:
                    raise SourceError(f"{path} unpacks to more than {room >> 30} GiB", code="too_large")
                if size > _BOMB_BYTES and size > _BOMB_RATIO * file.tell():
                    raise SourceError(f"{path} unpacks to more than {_BOMB_RATIO} times its size", code="too_large")
                out.write(piece)
    except (OSError, EOFError, zlib.error) as error:
        if not size:
            raise SourceError(f"{path} is damaged: {error}", code="damaged_file", fix="copy it again") from error
    out.seek(0, os.SEEK_SET)
    return size


def stem(path: str) -> str:
    """A shard's path without what says that it is a tar."""
    for suffix in (".tar.gz", ".tgz", ".tar"):
        if path.lower().endswith(suffix):
            return path[: -len(suffix)]
    return path
