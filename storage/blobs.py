"""Documents and blobs under one root: whole files, written at once or not at all, named by their content.

The same code serves a local folder and an object store. Every path is relative to the root and cannot leave it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem

from data_engine.cache import Cache
from data_engine.canonical import canonical_json
from data_engine.errors import RequestError, SourceError
from data_engine.fs import Options, filesystem, is_local, join, options, resolve, write_atomic
from data_engine.references import VIDEOS, Reference, find, pointer

__all__ = ["VIDEOS", "Blobs", "DataFile", "file_sha256"]

CHUNK = 1 << 20
TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class DataFile:
    """A file of the lake: ``path`` relative to the root, size, sha256 of its bytes, rows (0 where it is no table)."""

    path: str
    bytes: int
    sha256: str
    rows: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for a ledger entry; ``DataFile(**d)`` is the way back."""
        return asdict(self)


def file_sha256(path: str | Path) -> str:
    """sha256 in hex of a local file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Blobs:
    """Whole files under ``uri``. ``fs`` and ``root``: the fsspec file system and the root's path in it."""

    uri: str
    fs: AbstractFileSystem
    root: str

    def __init__(self, uri: str) -> None:
        self.uri = resolve(uri)
        self.fs, self.root = filesystem(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the root is a local folder."""
        return is_local(self.uri)

    @property
    def options(self) -> Options:
        """Each storage client's options, from the environment as it is now."""
        return options(self.uri)

    def uri_of(self, path: str) -> str:
        """The full URI (or local path) of ``path``. Raises ``RequestError`` where it would leave the root."""
        return join(self.uri, path)

    def _at(self, path: str) -> str:
        return join(self.root, path) if path else self.root

    def read_bytes(self, path: str) -> bytes:
        """The whole of ``path``. Raises ``SourceError`` where it is not there."""
        try:
            return self.fs.cat_file(self._at(path))
        except FileNotFoundError as error:
            raise SourceError(f"{path} is missing from the lake {self.uri}", code="missing_file") from error

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write ``path`` whole, replacing what was there."""
        write_atomic(self.fs, self._at(path), data)

    def exists(self, path: str) -> bool:
        """Whether there is a file, or anything below the folder, ``path``."""
        return bool(self.fs.exists(self._at(path)))

    def list(self, prefix: str = "") -> Sequence[str]:
        """Every file at or below the folder ``prefix``, sorted; files still being written are left out."""
        return sorted(path for path in self._stat(prefix) if not PurePosixPath(path).name.startswith(TEMPORARY))

    def _stat(self, prefix: str) -> dict[str, dict[str, Any]]:
        found = self.fs.find(self._at(prefix), detail=True)
        return {path[len(self.root) :].lstrip("/"): info for path, info in found.items()}

    def size(self, path: str) -> int | None:
        """Bytes of ``path``; None where it is not there."""
        try:
            return int(self.fs.info(self._at(path))["size"])
        except FileNotFoundError:
            return None

    def sizes(self, paths: Iterable[str]) -> Sequence[int | None]:
        """:meth:`size` of each path, asked for side by side."""
        paths = tuple(paths)
        with ThreadPoolExecutor(min(16, len(paths) or 1)) as pool:
            return tuple(pool.map(self.size, paths))

    def sha256(self, path: str) -> str:
        """sha256 in hex of the bytes that ``path`` has now, read in pieces. ``SourceError`` where it is missing."""
        try:
            with self.fs.open(self._at(path), "rb", block_size=8 * CHUNK) as file:
                sha = hashlib.sha256()
                while piece := file.read(CHUNK):
                    sha.update(piece)
                return sha.hexdigest()
        except FileNotFoundError as error:
            raise SourceError(f"{path} is missing from the lake {self.uri}", code="missing_file") from error

    def remove(self, path: str) -> None:
        """Delete one file; no error where it is gone already."""
        try:
            self.fs.rm_file(self._at(path))
        except FileNotFoundError:
            return

    def put_file(self, local_path: str | Path, path: str) -> None:
        """Copy a local file to ``path`` whole; nothing is copied where it is there already with the same size."""
        if self.size(path) == os.path.getsize(local_path):
            return
        with self.staged(str(PurePosixPath(path).parent)) as copy:
            shutil.copyfile(local_path, copy)
            self.publish(copy, path)

    def put_video(self, local_path: str | Path) -> str:
        """Keep a video's bytes as they are and return their path, ``videos/<sha256 of the bytes>.<its suffix>``."""
        path = f"{VIDEOS}/{file_sha256(local_path)}{Path(local_path).suffix.lower() or '.mp4'}"
        self.put_file(local_path, path)
        return path

    @contextmanager
    def staged(self, folder: str) -> Iterator[Path]:
        """An empty local file to fill and then :meth:`publish` into ``folder``; gone afterwards if it was not."""
        if self.is_local:
            os.makedirs(self._at(folder), exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._at(folder) if self.is_local else None, prefix=TEMPORARY)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            if os.path.exists(name):
                os.unlink(name)

    def publish(self, staged: Path, path: str) -> None:
        """Make a :meth:`staged` file appear whole as ``path``."""
        if not self.is_local:
            self.fs.put_file(str(staged), self._at(path))
            return
        with open(staged, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(staged, 0o644)
        os.replace(staged, self._at(path))

    def put_reference(self, blob: str, reference: Reference) -> None:
        """Say where the bytes of the video ``blob`` lie. A later one takes its place; a copy in the lake goes first."""
        self.write_bytes(pointer(blob), canonical_json(reference).encode())

    def reference(self, path: str) -> Reference | None:
        """Where a video lies whose bytes the lake does not hold; None for what it holds and for what nobody has.

        Raises ``SourceError`` where the reference is damaged.
        """
        return None if self.size(path) is not None else find(self.fs, self.root, path)

    def is_reference(self, path: str) -> bool:
        """Whether the lake only refers to ``path``: its bytes are not ours to change or delete."""
        return self.reference(path) is not None

    def blob(self, path: str) -> DataFile:
        """Size and hash of a blob that is named by its content. Raises ``SourceError`` where it is missing."""
        size = self.size(path)
        if size is None:
            reference = find(self.fs, self.root, path)
            if reference is None:
                raise SourceError(f"blob {path} is missing from the lake {self.uri}", code="missing_file")
            size = reference.bytes
        return DataFile(path, size, PurePosixPath(path).stem)

    def local(self, path: str, sha256: str | None = None) -> Path:
        """A local file with the bytes of ``path``: itself, the file that it refers to, or a copy in the cache.

        Copies are named and verified by ``sha256``, which is taken from the path where its name ends in it. Raises
        ``SourceError`` where ``path`` is missing, or is not what it was.
        """
        if self.is_local:
            if os.path.exists(self._at(path)):
                return Path(self._at(path))
        elif not (sha256 := sha256 or _hash_in(path)):
            raise RequestError(f"{path} is not named by its content: give its sha256", code="bad_path")
        else:
            try:
                return _cache().copy(self.fs, self._at(path), sha256)
            except SourceError as error:
                if error.code != "missing_file":
                    raise
        reference = find(self.fs, self.root, path)
        if reference is None:
            raise SourceError(f"{path} is missing from the lake {self.uri}", code="missing_file")
        return reference.local(PurePosixPath(path).stem, _cache(), trusted=True)

    def signed(self, path: str, seconds: int) -> str | None:
        """An address at which whoever has it reads ``path`` for so long; None where the store signs none.

        That is a local folder, and a file that is kept by reference.
        """
        if self.is_local or self.size(path) is None or not self.fs.exists(self._at(path)):
            return None
        return str(self.fs.sign(self._at(path), expiration=seconds))


def _hash_in(path: str) -> str | None:
    name = PurePosixPath(path).stem.rpartition("-")[2]
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


_caches: dict[Path, Cache] = {}  # by folder: each knows how much room it left


def _cache() -> Cache:
    cache = Cache()
    return _caches.setdefault(cache.folder, cache)
