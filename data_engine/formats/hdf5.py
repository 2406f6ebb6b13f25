"""Opening HDF5 files of strangers: local or remote, every object inside the file itself, every type a plain one.

HDF5 can point out of its file (external links, external storage, virtual datasets); such objects are refused before
they are followed, so that a data file never reads another file of the machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.arrays import Spec
from data_engine.formats.attributes import plain
from data_engine.formats.halves import spelt
from data_engine.formats.rows import FAULTS, Rows, block_rows, bounded
from data_engine.formats.unpacked import DEFLATE_RATIO, SPARE_BYTES, refuse_bomb
from data_engine.fragile import fragile
from data_engine.uncollected import uncollected

if TYPE_CHECKING:
    import h5py

__all__ = ["SUFFIXES", "Array", "array", "child", "is_hdf5", "members", "open_file", "split", "walk"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".hdf5", ".h5", ".hdf")
_DEFLATE = 1  # H5Z_FILTER_DEFLATE
_DEEPEST = 64  # groups in groups: opening a member takes time with the square of it


def is_hdf5(source: Source) -> bool:
    """Whether ``source`` is one file with HDF5's signature. Raises ``SourceError`` for an .hdf5 file without it."""
    if not source.is_file:
        return False
    if source.fs.cat_file(source.root, start=0, end=len(_SIGNATURE)) == _SIGNATURE:
        return True
    if source.root.lower().endswith(SUFFIXES):
        raise SourceError(
            f"{source.uri} has no HDF5 signature: empty, cut or another kind of file", fix="copy the file again"
        )
    return False


@contextmanager
def open_file(source: Source) -> Iterator[h5py.File]:
    """The open file, read-only and unlocked. Raises ``SourceError`` where it is truncated or damaged."""
    import h5py

    with ExitStack() as held:
        try:
            if source.is_local:
                file = h5py.File(source.path(), "r", locking=False)
            else:  # HDF5 jumps about: keep recent blocks, not a read-ahead
                held.enter_context(uncollected())
                handle = source.fs.open(
                    source.path(), "rb", block_size=4 << 20, cache_type="blockcache", cache_options={"maxblocks": 16}
                )
                file = h5py.File(held.enter_context(handle), "r")
        except FAULTS as error:
            raise SourceError(
                f"{source.uri} cannot be opened as HDF5: {error}", code="damaged_file", fix="copy the file again"
            ) from error
        with file:
            yield file


@dataclass(frozen=True)
class Array(Rows):
    """One dataset of a file, by h5py's low-level handle: its high-level object costs more than reading a short array.

    ``shape`` is the whole shape, ``dtype`` the stored type, ``spec`` what it holds a step. ``len`` counts its rows.
    """

    name: str
    id: h5py.h5d.DatasetID
    shape: tuple[int, ...]
    dtype: np.dtype
    spec: Spec

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dataset(self) -> h5py.Dataset:
        """The h5py dataset, to read a part of it."""
        import h5py

        return h5py.Dataset(self.id)

    @property
    def nbytes(self) -> int:
        """Bytes of all values once read."""
        return math.prod(self.shape) * self.dtype.itemsize

    @cached_property
    def absent(self) -> tuple[int, int]:
        """See :attr:`Rows.absent`."""
        import h5py

        if 0 in self.shape or self.id.get_offset() is not None:
            return 0, 1
        plan = self.id.get_create_plist()
        if plan.get_layout() != h5py.h5d.CHUNKED:
            return int(not self.id.get_storage_size()), 1
        parts = math.prod(-(-side // part) for side, part in zip(self.shape, plan.get_chunk(), strict=True))
        return parts - self.id.get_num_chunks(), parts

    @cached_property
    def _measured(self) -> bool:
        """True. Raises ``SourceError`` where a deflated chunk unpacks to more than its declared size."""
        if self.id.get_storage_size() * DEFLATE_RATIO <= SPARE_BYTES:
            return True
        plan = self.id.get_create_plist()
        if _DEFLATE not in {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}:
            return True
        size = math.prod(plan.get_chunk()) * self.dtype.itemsize
        large = []

        def look(chunk: Any) -> None:
            if chunk.size * DEFLATE_RATIO > size + SPARE_BYTES or chunk.size > size:
                large.append(chunk.chunk_offset)

        self.id.chunk_iter(look)
        for offset in large:
            skipped, data = self.id.read_direct_chunk(offset)
            refuse_bomb(data, "" if skipped else "zlib", size, self.name)
        return True

    @property
    def chunk(self) -> int:
        """Rows that are stored, and decoded, together."""
        chunks = self.dataset.chunks
        return chunks[0] if chunks else 1

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`: whole chunks."""
        step = block_rows(self.spec, self.chunk)
        for index in range(start // step, -(-stop // step)):
            yield self._some(max(index * step, start), min((index + 1) * step, stop))

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`Rows.read`."""
        if self.spec.dtype == "bytes":
            parts = bounded(self.blocks(start, stop), self.name)
            return np.concatenate(parts or [np.empty((0, *self.spec.shape), object)])
        return self._some(start, stop)

    def _some(self, start: int, stop: int) -> np.ndarray:
        self._measured  # noqa: B018  # raises
        if self.spec.dtype == "string" and self.dtype.kind == "O":
            return np.asarray(self.dataset.asstr(errors="backslashreplace")[start:stop], dtype=str)
        return self.dataset[start:stop]

    def load(self) -> np.ndarray:
        """All its values, a scalar's too; text as numpy strings."""
        import h5py

        if self.spec.dtype == "bytes":
            return self.read(0, len(self)) if self.shape else self.dataset[()]
        if self.dtype.kind == "O":
            return np.asarray(self.dataset.asstr(errors="backslashreplace")[()], dtype=str)
        values = np.empty(self.shape, self.dtype)
        if values.size:
            self._measured  # noqa: B018  # raises
            self.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        return values


def array(found: h5py.h5d.DatasetID) -> Array:
    """The dataset behind a handle, once it is known to be plain.

    Raises ``SourceError`` where its data lie in another file, and for object, compound and empty types. Says of one
    whose rows have no fixed length that it is fragile. (Attributes hold such texts too, in nearly every file; that is
    left to whoever waits for this process.)
    """
    import h5py

    name = spelt(os.fsdecode(h5py.h5i.get_name(found)))
    if found.get_offset() is None:  # else it lies in one piece in this file
        properties = found.get_create_plist()
        if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
            raise SourceError(f"{name} keeps its data in another file, which is not read", code="link")
        if found.get_space().get_simple_extent_type() == h5py.h5s.NULL:
            raise SourceError(f"{name} has no data", code="bad_dtype")
    shape, dtype = tuple(found.shape), found.dtype
    if dtype.kind == "O":
        fragile(f"{name}: over damaged rows of variable length libhdf5 can end the process")
    if dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None:
        return Array(name, found, shape, dtype, Spec("string", shape[1:]))
    if dtype.kind == "O" and h5py.check_vlen_dtype(dtype) == np.uint8:
        return Array(name, found, shape, dtype, Spec("bytes", shape[1:]))
    try:
        return Array(name, found, shape, dtype, Spec.of(dtype, shape))
    except SourceError as error:
        raise SourceError(f"{name}: {error.message}", code=error.code) from None


def members(group: h5py.Group) -> dict[str, Literal["group", "array", "link"]]:
    """What is in ``group``; a name that is no UTF-8 as Python holds such names of files. Other links are not followed.

    By low-level handles: h5py opens nothing of such a name else.
    """
    from h5py import h5l, h5o

    found: dict[str, Literal["group", "array", "link"]] = {}
    for raw in group.id:
        link = group.id.links.get_info(raw).type != h5l.TYPE_HARD
        kind: Any = None if link else h5o.get_info(group.id, raw).type
        found[os.fsdecode(raw)] = "link" if link else "group" if kind == h5o.TYPE_GROUP else "array"
    return found


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """The member of ``group`` at ``path``. Raises ``SourceError`` where it is missing or a link leads to it."""
    from h5py import h5l

    for part in path.split("/"):
        links, name = group.id.links, os.fsencode(part)
        if not links.exists(name):
            raise SourceError(f"{group.name.rstrip('/')} has no {part}", code="missing")
        if links.get_info(name).type != h5l.TYPE_HARD:
            raise SourceError(f"{group.name.rstrip('/')}/{part} is a link, which is not followed", code="link")
        group = group[name]
    return group


def walk(group: h5py.Group, skip: Container[str] = (), leave_out: Sequence[str] | None = None) -> dict[str, Array]:
    """Every dataset below ``group`` by its path in it, sorted, without the members in ``skip`` and what is below them.

    Paths that a glob of ``leave_out`` fits are not opened. Raises ``SourceError`` for links and for arrays that
    :func:`array` refuses, with the way to leave one out whose type has no column form.
    """
    import h5py

    links: dict[str, int] = {}

    def enter(name: bytes, info: h5py.h5l.LinkInfo) -> bool | None:
        links[os.fsdecode(name)] = info.type
        return name.count(b"/") >= _DEEPEST or None  # anything but None ends the visit

    if group.id.links.visit(enter, info=True):
        raise SourceError(f"{group.name} holds groups in groups, more than {_DEEPEST} deep", code="too_deep")
    found = {}
    for path in sorted(links):
        if path.split("/", 1)[0] in skip or any(fnmatchcase(path, pattern) for pattern in leave_out or ()):
            continue
        if links[path] != h5py.h5l.TYPE_HARD:
            raise SourceError(f"{group.name}/{path} is a link, which is not followed", code="link")
        opened = h5py.h5o.open(group.id, os.fsencode(path))
        if isinstance(opened, h5py.h5d.DatasetID):
            try:
                found[path] = array(opened)
            except SourceError as error:
                if leave_out is None or error.code != "bad_dtype":
                    raise
                fix = f"leave it out: leave_out: ['{spelt(path)}']"
                raise SourceError(error.message, code=error.code, fix=fix) from None
    return found


def split(found: Mapping[str, Array]) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Arrays that have rows, and the plain values of those that are single values."""
    rows: dict[str, Rows] = {path: array for path, array in found.items() if array.shape}
    return rows, {path: plain(array.load()) for path, array in found.items() if not array.shape}
