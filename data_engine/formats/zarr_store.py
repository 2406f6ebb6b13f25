"""Opening zarr stores of strangers (a folder or a zip, local or remote, zarr v2 or v3); rows read by whole chunks."""

from __future__ import annotations

import math
import os
import posixpath
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import Source, rows
from data_engine.formats.arrays import BLOCK_BYTES, Spec
from data_engine.formats.unpacked import refuse_bomb

if TYPE_CHECKING:
    import zarr

__all__ = ["Rows", "Store", "open_store"]

_MARKS = (".zgroup", "zarr.json")
_METADATA = (*_MARKS, ".zarray", ".zattrs", ".zmetadata")
_MEMBER_BYTES = 4 << 30  # a member of a zip that declares more is refused
_MOST_CHUNKS = 1 << 22  # of one array, files of a folder each
_PIECE = 1 << 20


@dataclass(frozen=True)
class Store:
    """An open store: zarr's own handle, and the file system and path that its members are listed through.

    Members are listed here and opened one at a time: zarr's listing skips, with a warning, what it cannot open.
    """

    uri: str
    handle: Any
    fs: Any
    root: str

    def members(self, group: str) -> list[str]:
        """Names of the folders in ``group``, sorted; none where there is no such group."""
        path = posixpath.join(self.root, group)
        if not self.fs.isdir(path):
            return []
        names = (posixpath.basename(entry["name"].rstrip("/")) for entry in self.fs.ls(path, detail=True))
        return sorted(name for name in names if self.fs.isdir(posixpath.join(path, name)))

    def is_array(self, path: str) -> bool:
        """Whether there is an array and not a group at ``path``."""
        folder = posixpath.join(self.root, path)
        if self.fs.exists(posixpath.join(folder, "zarr.json")):
            return b'"array"' in self.fs.cat_file(posixpath.join(folder, "zarr.json"))
        return bool(self.fs.exists(posixpath.join(folder, ".zarray")))

    def array(self, path: str) -> zarr.Array:
        """The array at ``path``. Raises ``SourceError`` where it has no plain type: decoding objects runs code."""
        import zarr

        try:
            found = zarr.open_array(store=self.handle, path=path, mode="r")
        except Exception as error:  # zarr raises its own and anyone's: metadata is parsed by many hands
            raise SourceError(
                f"{path} of {self.uri} cannot be opened: {error}", code="bad_array", fix="store plain numbers or text"
            ) from error
        metadata = found.metadata.to_dict()
        if any("pickle" in str(metadata.get(codecs)) for codecs in ("codecs", "filters", "compressor")):
            raise SourceError(f"{path} of {self.uri} is pickled, which is never decoded", code="bad_array")
        stored = math.prod(
            -(-side // part) for side, part in zip(found.shape, found.shards or found.chunks, strict=True)
        )
        if stored > _MOST_CHUNKS:  # whoever looks for those that are there looks for each
            raise SourceError(
                f"{path} of {self.uri} declares {stored} chunks", code="too_large", fix="store it in larger ones"
            )
        self.handle.limits[path] = _chunk_limit(found, metadata)
        return found

    def attributes(self, group: str) -> dict[str, Any]:
        """The attributes of ``group``; empty where it has none."""
        import zarr

        try:
            return dict(zarr.open_group(store=self.handle, path=group, mode="r", use_consolidated=False).attrs)
        except Exception as error:
            raise SourceError(
                f"{self.uri} has damaged metadata in {group or '/'}: {error}", code="bad_array"
            ) from error


def _chunk_limit(array: zarr.Array, metadata: dict[str, Any]) -> tuple[str, int]:
    """(the codec that packs a chunk of ``array`` last, bytes of the chunk unpacked); of a sharded one, inside a shard.

    Text, whose length no header declares, has no codec here.
    """
    codecs, chunks = metadata.get("codecs"), array.chunks
    if codecs and codecs[0]["name"] == "sharding_indexed":
        codecs = codecs[0]["configuration"]["codecs"]
    last = [codec["name"] for codec in codecs if codec["name"] != "crc32c"][-1:] if codecs else []
    compressor = metadata.get("compressor")
    name = last[0] if last else str(compressor["id"]) if compressor else ""
    fixed = array.dtype.kind in "biufcMmSUV"
    return name.rpartition(".")[2] if fixed else "", math.prod(chunks) * array.dtype.itemsize


def _bounded(handle: Any) -> Any:
    """A zarr store over ``handle`` whose chunks are looked at before they are unpacked; ``limits`` by array path."""
    from zarr.storage import WrapperStore

    class Bounded(WrapperStore):
        def __init__(self, store: Any) -> None:
            super().__init__(store)
            self.limits: dict[str, tuple[str, int]] = {}

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            found = await self._store.get(key, prototype, byte_range)
            if found is not None and len(found) and posixpath.basename(key) not in _METADATA:
                for path, (codec, size) in self.limits.items():
                    if key.startswith(f"{path}/"):
                        refuse_bomb(found.as_numpy_array(), codec, size, key)
            return found

    return Bounded(handle)


class Rows(rows.Rows):
    """Rows of one array, decoded by whole chunks in blocks of about 8 MB; the last block is kept.

    Episodes that share a chunk and are read in order therefore decode it once.
    """

    def __init__(self, array: zarr.Array, name: str) -> None:
        self.array = array
        self.name = name
        self.spec = Spec.of(np.dtype("U") if str(array.dtype).startswith("StringDType") else array.dtype, array.shape)
        chunk = max(int(array.chunks[0]), 1)
        row = math.prod(array.shape[1:]) * max(array.dtype.itemsize, 1)
        self._step = chunk * max(BLOCK_BYTES // max(row * chunk, 1), 1)
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return int(self.array.shape[0])

    @cached_property
    def absent(self) -> tuple[int, int]:
        """See :attr:`Rows.absent`."""
        return self.array.nchunks - self.array.nchunks_initialized, self.array.nchunks

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows ``start`` to ``stop`` in order, some at a time. Raises ``SourceError`` for a damaged chunk."""
        for index in range(start // self._step, -(-stop // self._step)):
            base = index * self._step
            at, block = self._kept
            if at != index:
                try:
                    block = np.asarray(self.array[base : min(base + self._step, len(self))])
                except Exception as error:  # whatever the codec raises
                    raise SourceError(
                        f"{self.name} is damaged in rows {base} to {base + self._step}: {error}", code="damaged_chunk"
                    ) from error
                self._kept = index, block
            yield block[max(start - base, 0) : stop - base]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` as one array of their own; text as numpy strings."""
        found = np.concatenate(list(self.blocks(start, stop)) or [np.empty((0, *self.spec.shape))])
        return found.astype(str) if self.spec.dtype == "string" and found.dtype.kind != "S" else found


def open_store(source: Source) -> Store | None:
    """The store at ``source``, None where it is no zarr group.

    Raises ``SourceError`` for a damaged zip, a zip whose names leave it, and a folder with links that leave it.
    """
    if source.is_file:
        if source.fs.cat_file(source.root, start=0, end=2) == b"PK":
            return _open_zip(source)
        if source.root.lower().endswith(".zarr.zip"):
            raise SourceError(f"{source.uri} is no zip file: empty, cut or another kind of file", fix="copy it again")
        return None
    if not any(source.exists(mark) for mark in _MARKS):
        return None
    from zarr.storage import FsspecStore, LocalStore

    if source.is_local:
        _refuse_links(source)
        return Store(source.uri, _bounded(LocalStore(source.root, read_only=True)), source.fs, source.root)
    if source.fs.async_impl:
        fs = type(source.fs)(**{**source.fs.storage_options, "asynchronous": True})
        handle = FsspecStore(fs, read_only=True, path=source.root)
    else:
        handle = FsspecStore.from_url(source.uri, read_only=True)
    return Store(source.uri, _bounded(handle), source.fs, source.root)


def _open_zip(source: Source) -> Store | None:
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    try:
        with source.open() as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            packed = {info.compress_type for info in archive.infolist()} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(
            f"{source.uri} is a damaged zip: {error}", code="damaged_file", fix="copy it again"
        ) from error
    if packed:
        raise SourceError(
            f"{source.uri} is packed in a way that is not read", code="bad_zip", fix="store or deflate it"
        )
    groups = [posixpath.dirname(name) for name in names if posixpath.basename(name) in _MARKS]
    if not groups:
        return None
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise SourceError(f"{source.uri} holds the path {name!r}, which leaves it", code="bad_path")
    root = min(groups, key=lambda group: (group.count("/") if group else -1, group))
    fs = _piecewise()(source.open(), skip_instance_cache=True)
    handle = FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), read_only=True, path=root or "/")
    return Store(source.uri, _bounded(handle), fs, root)


def _piecewise() -> Any:
    """A file system of a zip that unpacks members in pieces: at once, a member unpacks whatever size it declares."""
    from fsspec.implementations.zip import ZipFileSystem

    class Piecewise(ZipFileSystem):
        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
            size = int(self.info(path)["size"])
            if size > _MEMBER_BYTES:
                raise OSError(f"{path} declares {size >> 30} GiB")
            with self.open(path) as file:
                data = b"".join(iter(lambda: file.read(_PIECE), b""))
            return data[start:end]

    return Piecewise


def _refuse_links(source: Source) -> None:
    """Refuse symbolic links below a local store that lead out of it: a chunk would be another file of the machine."""
    for folder, folders, files in os.walk(source.root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                source.path(os.path.relpath(path, source.root))  # raises where it leaves the source
