"""Opening HDF5 files of strangers: local or remote, every object inside the file itself, every type a plain one.

HDF5 can point out of its file (external links, external storage, virtual datasets); such objects are refused before
they are followed, so that a data file never reads another file of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.arrays import BLOCK_BYTES, Spec, to_rgb

if TYPE_CHECKING:
    import h5py

__all__ = ["FAULTS", "Array", "Frames", "array", "child", "is_hdf5", "open_file", "walk"]

FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py raises for a damaged file
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = (".hdf5", ".h5", ".hdf")


def is_hdf5(source: Source) -> bool:
    """Whether ``source`` is one file with HDF5's signature. Raises ``SourceError`` for an .hdf5 file without it."""
    if not source.is_file:
        return False
    if source.fs.cat_file(source.root, start=0, end=len(_SIGNATURE)) == _SIGNATURE:
        return True
    if source.root.lower().endswith(_SUFFIXES):
        raise SourceError(
            f"{source.uri} has no HDF5 signature: empty, cut or another kind of file", fix="copy the file again"
        )
    return False


@contextmanager
def open_file(source: Source) -> Iterator[h5py.File]:
    """The open file, read-only and unlocked. Raises ``SourceError`` where it is truncated or damaged."""
    import h5py

    handle = None
    try:
        if source.is_local:
            file = h5py.File(source.path(), "r", locking=False)
        else:  # HDF5 jumps about: keep recent blocks, not a read-ahead
            handle = source.fs.open(
                source.path(), "rb", block_size=4 << 20, cache_type="blockcache", cache_options={"maxblocks": 16}
            )
            file = h5py.File(handle, "r")
    except FAULTS as error:
        if handle is not None:
            handle.close()
        raise SourceError(
            f"{source.uri} cannot be opened as HDF5: {error}", code="damaged_file", fix="copy the file again"
        ) from error
    try:
        yield file
    finally:
        file.close()
        if handle is not None:
            handle.close()


@dataclass(frozen=True, slots=True)
class Array:
    """One dataset of a file, by h5py's low-level handle: its high-level object costs more than reading a short array.

    ``shape`` is the whole shape, ``dtype`` the stored type, ``spec`` what it holds a step. ``len`` counts its rows.
    """

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

    @property
    def unwritten(self) -> bool:
        """Whether it declares values and stores none: it reads as its fill value."""
        return 0 not in self.shape and self.id.get_offset() is None and not self.id.get_storage_size()

    def load(self) -> np.ndarray:
        """All its values; text as numpy strings."""
        from h5py import h5s

        if self.dtype.kind == "O":
            return np.asarray(self.dataset.asstr(errors="backslashreplace")[()], dtype=str)
        values = np.empty(self.shape, self.dtype)
        if values.size:
            self.id.read(h5s.ALL, h5s.ALL, values)
        return values


def array(found: h5py.h5d.DatasetID) -> Array:
    """The dataset behind a handle, once it is known to be plain.

    Raises ``SourceError`` where its data lie in another file, and for object, compound and empty types.
    """
    import h5py
    from h5py import h5d, h5s

    name = h5py.h5i.get_name(found).decode()
    if found.get_offset() is None:  # else it lies in one piece in this file
        properties = found.get_create_plist()
        if properties.get_layout() == h5d.VIRTUAL or properties.get_external_count():
            raise SourceError(f"{name} keeps its data in another file, which is not read", code="link")
        if found.get_space().get_simple_extent_type() == h5s.NULL:
            raise SourceError(f"{name} has no data", code="bad_dtype")
    shape, dtype = tuple(found.shape), found.dtype
    if dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None:
        return Array(found, shape, dtype, Spec("string", shape[1:]))
    try:
        return Array(found, shape, dtype, Spec.of(dtype, shape))
    except SourceError as error:
        raise SourceError(f"{name}: {error.message}", code=error.code) from None


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """The member of ``group`` at ``path``. Raises ``SourceError`` where it is missing or a link leads to it."""
    from h5py import h5l

    for part in path.split("/"):
        links, name = group.id.links, part.encode()
        if not links.exists(name):
            raise SourceError(f"{group.name.rstrip('/')} has no {part}", code="missing")
        if links.get_info(name).type != h5l.TYPE_HARD:
            raise SourceError(f"{group.name.rstrip('/')}/{part} is a link, which is not followed", code="link")
        group = group[part]
    return group


def walk(group: h5py.Group, skip: str | None = None) -> dict[str, Array]:
    """Every dataset below ``group`` by its path in it, sorted, without the member named ``skip`` and what is below it.

    Raises ``SourceError`` for links and for arrays that :func:`array` refuses.
    """
    import h5py
    from h5py import h5l, h5o

    links: dict[str, int] = {}
    group.id.links.visit(lambda name, info: links.__setitem__(name.decode(), info.type), info=True)
    found = {}
    for path in sorted(links):
        if skip is not None and (path == skip or path.startswith(skip + "/")):
            continue
        if links[path] != h5l.TYPE_HARD:
            raise SourceError(f"{group.name}/{path} is a link, which is not followed", code="link")
        opened = h5o.open(group.id, path.encode())
        if isinstance(opened, h5py.h5d.DatasetID):
            found[path] = array(opened)
    return found


@dataclass(frozen=True)
class Frames:
    """The frames of one camera of one demonstration, read in blocks of whole chunks whenever they are asked for."""

    source: Source
    path: str
    top: float = 255.0
    rounding: bool = False

    def __call__(self) -> Iterator[np.ndarray]:
        """A fresh iterator of uint8 (h, w, 3). Raises ``SourceError`` where the file is damaged."""
        with open_file(self.source) as file:
            yield from to_rgb(
                self._blocks(array(child(file, self.path).id).dataset), self.path, top=self.top, rounding=self.rounding
            )

    def _blocks(self, dataset: h5py.Dataset) -> Iterator[np.ndarray]:
        chunk = dataset.chunks[0] if dataset.chunks else 1
        row = max(dataset.dtype.itemsize * math.prod(dataset.shape[1:]), 1)
        step = chunk * max(BLOCK_BYTES // (row * chunk), 1)
        for start in range(0, len(dataset), step):
            try:
                yield dataset[start : start + step]
            except FAULTS as error:
                raise SourceError(f"frames of {self.path} cannot be read: {error}", code="damaged_frames") from error
