"""The local cache: copies of remote files, and steps files decoded once into memory-mapped arrays.

Everything is named by the content's sha256, so a cache is shared by every mixture, process and worker of a machine,
and the page cache by all of them. It is bounded: what was used longest ago goes first. Removing an entry that another
process has mapped is safe on POSIX, and one that is about to be opened is simply made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from data_engine.arrays import to_array
from data_engine.canonical import digest
from data_engine.conventions.convert import Conversion, convert
from data_engine.errors import RequestError, SourceError

__all__ = ["LRU", "Cache", "sha256_of"]

DEFAULT_BYTES = 64 << 30

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRU(Generic[K, V]):
    """The ``size`` things used last, made on demand by ``make``: calling it with a key gives the key's."""

    def __init__(self, size: int, make: Callable[[K], V]) -> None:
        self.size, self.make = size, make
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __call__(self, key: K) -> V:
        """What ``make`` made of ``key``."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._kept[key] = self.make(key)
        if len(self._kept) > self.size:
            self._kept.popitem(last=False)
        return value


class Cache:
    """A folder of at most ``max_bytes``, what was used in the last ``grace_s`` seconds aside: it may be being opened.

    ``folder`` defaults to ``$DATA_ENGINE_CACHE``, else ``data-engine`` in the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None, max_bytes: int = DEFAULT_BYTES, grace_s: float = 60) -> None:
        self.folder = Path(folder).expanduser() if folder else _default()
        self.max_bytes, self.grace_s = max_bytes, grace_s
        self._room = 0.0  # bytes to write before looking again at what all processes have written

    def copy(self, fs: AbstractFileSystem, path: str, sha256: str, *, size: int | None = None) -> Path:
        """A local copy of ``path``, fetched once. Raises ``SourceError`` where it is missing, or not of ``size`` bytes
        (which is looked at first) or not what ``sha256`` says.
        """
        kept = self._entry("files", sha256) / f"blob{Path(path).suffix}"
        if not self._use(kept):
            with self._new(kept) as temporary:
                try:
                    if size is not None and (now := int(fs.info(path)["size"])) != size:
                        raise SourceError(f"{path} has {now} bytes, {size} were expected", code="changed_file")
                    fs.get_file(path, temporary)
                except FileNotFoundError as error:
                    raise SourceError(f"missing file {path}", code="missing_file") from error
                verify(temporary, sha256, path)
        return kept

    def verify(self, file: Path, sha256: str) -> None:
        """Raise ``SourceError`` where a local file is not what ``sha256`` says. It is read once a machine, and again
        after anything was done to it.
        """
        kept = self._entry("verified", sha256) / digest(str(file), length=16)
        found = file.stat() if file.is_file() else None
        state = str(found and (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        if found and self._use(kept):
            with contextlib.suppress(FileNotFoundError):  # another process made room just now
                if kept.read_text() == state:
                    return
        verify(file, sha256, str(file))
        with self._new(kept) as temporary:
            temporary.write_text(state)

    def column(
        self, file: Path, sha256: str, column: str, conversions: Sequence[Conversion] = (), *, fill: bool = False
    ) -> np.ndarray:
        """A numeric column of a steps file as a read-only memory-mapped array, [N] or [N, d], in the stored dtype.

        It is kept after its ``conversions``, so that they cost nothing when it is read again. ``fill`` as in
        :func:`data_engine.arrays.to_array`.

        Raises ``SourceError`` where the file is not what ``sha256`` says, cannot be read, or lacks the column.
        """
        after = "@" + digest([conversion.model_dump(mode="json") for conversion in conversions], length=16)
        name = quote(column, safe="") + (after if conversions else "") + ("@filled" if fill else "")
        kept = self._entry("steps", sha256) / f"{name}.npy"
        if self._use(kept):
            with contextlib.suppress(FileNotFoundError):  # another process made room just now
                return _mapped(kept)
        if not kept.parent.exists():
            verify(file, sha256, str(file))
        with self._new(kept) as temporary:
            with temporary.open("wb") as out:
                np.save(out, convert(_read(file, column, fill), conversions), allow_pickle=False)
            return _mapped(temporary)  # stays mapped whatever becomes of the name

    def kept(self, sha256: str, name: str) -> np.ndarray | None:
        """What :meth:`keep` was given last of the file with this hash under ``name``; None where it is gone."""
        kept = self._entry("made", sha256) / f"{name}.npy"
        if self._use(kept):
            with contextlib.suppress(FileNotFoundError):  # another process made room just now
                return np.asarray(np.load(kept, allow_pickle=False))
        return None

    def keep(self, sha256: str, name: str, made: np.ndarray) -> None:
        """Keep what was made of the file with this hash, under a name that says what it depends on besides."""
        with self._new(self._entry("made", sha256) / f"{name}.npy") as temporary, temporary.open("wb") as out:
            np.save(out, made, allow_pickle=False)

    def table(self, sha256: str, make: Callable[[], pa.Table | None]) -> pa.Table | None:
        """What ``make`` makes of the table with this hash, mapped: copied by no process. None is not kept."""
        kept = self._entry("tables", sha256) / "table.arrow"
        if self._use(kept):
            with contextlib.suppress(FileNotFoundError):  # another process made room just now
                return _mapped_table(kept)
        made = make()
        if made is None:
            return None
        with self._new(kept) as temporary:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, made.schema) as writer:
                writer.write_table(made.combine_chunks())
            return _mapped_table(temporary)

    def forget(self, sha256: str) -> None:
        """Drop everything that is kept of the file with this hash."""
        for kind in ("files", "made", "steps", "tables", "verified"):
            shutil.rmtree(self._entry(kind, sha256), ignore_errors=True)

    def _entry(self, kind: str, sha256: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):  # somebody else's table says it
            raise SourceError(f"{sha256!r} is no sha256", code="bad_hash")
        return self.folder / kind / sha256[:2] / sha256

    def _use(self, kept: Path) -> bool:
        try:
            os.utime(kept.parent)
        except OSError:
            return False
        return kept.exists()

    @contextlib.contextmanager
    def _new(self, kept: Path) -> Iterator[Path]:
        """A temporary file that becomes ``kept`` when all went well; then room is made."""
        try:
            kept.parent.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".tmp-")
        except OSError as error:
            raise RequestError(
                f"cannot write the cache {self.folder}: {error.strerror}",
                code="bad_cache",
                fix="set DATA_ENGINE_CACHE or cache_dir to a folder with room",
            ) from error
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            self._room -= temporary.stat().st_size
            with contextlib.suppress(FileNotFoundError):  # an old entry may go while a column is added to it
                kept.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(kept)
        finally:
            temporary.unlink(missing_ok=True)
        self._make_room(kept.parent)

    def _make_room(self, newest: Path) -> None:
        if self._room >= 0:
            return
        entries = []
        for entry in self.folder.glob("*/??/*"):
            with contextlib.suppress(FileNotFoundError):
                size = sum(file.stat().st_size for file in entry.iterdir())
                entries.append((entry.stat().st_mtime_ns, size, entry))
        total = sum(size for _, size, _ in entries)
        for used, size, entry in sorted(entries):
            if total <= self.max_bytes:
                break
            if entry != newest and used < time.time_ns() - self.grace_s * 1e9:
                shutil.rmtree(entry, ignore_errors=True)
                total -= size
        self._room = min(self.max_bytes - total, self.max_bytes / 16)


def sha256_of(file: Path) -> str:
    """The sha256 of a local file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _default() -> Path:
    given = os.environ.get("DATA_ENGINE_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "data-engine").expanduser()


def verify(file: Path, sha256: str, name: str) -> None:
    """Raise ``SourceError`` where ``file`` is not what was frozen."""
    if not file.is_file():
        raise SourceError(f"missing file {name}", code="missing_file")
    if sha256_of(file) != sha256:
        raise SourceError(f"{name} is not the file that was frozen: its sha256 differs", code="changed_file")


def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def _mapped_table(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()


def _read(file: Path, column: str, fill: bool) -> np.ndarray:
    try:
        if column not in pq.read_schema(file).names:
            raise SourceError(f"{file.name} has no column {column!r}", code="missing_column")
        table = pq.read_table(file, columns=[column], partitioning=None)
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise SourceError(f"cannot read {file}: {error}", code="bad_steps_file") from error
    return np.ascontiguousarray(to_array(table.column(column), column, fill=fill))
