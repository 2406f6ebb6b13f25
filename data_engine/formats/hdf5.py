"""Opening HDF5 files of strangers: local or remote, every object inside the file itself, every type a plain one.

HDF5 can point out of its file (external links, external storage, virtual datasets); such objects are refused before they
are followed, so that a data file never reads another file of the machine.
"""

from __future__ import annotations

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

__all__ = ["FAULTS", "Frames", "child", "is_hdf5", "load", "open_file", "spec", "walk"]

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


def child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """The member ``name`` of ``group``, or at a path below it. Raises ``SourceError`` for links and for data elsewhere."""
    import h5py

    found = group
    for part in name.split("/"):
        link = found.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "is missing" if link is None else "is a link, which is not followed"
            raise SourceError(f"{found.name.rstrip('/')}/{part} {kind}", code="missing" if link is None else "link")
        found = found[part]
    if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
        raise SourceError(f"{found.name} keeps its data in another file, which is not read", code="link")
    return found


def walk(group: h5py.Group, skip: frozenset[str] = frozenset(), prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset below ``group`` by its path in it, in sorted order, without the members named in ``skip``."""
    import h5py

    for name in group:
        if prefix + name in skip:
            continue
        found = child(group, name)
        if isinstance(found, h5py.Group):
            yield from walk(found, skip, f"{prefix}{name}/")
        elif isinstance(found, h5py.Dataset):
            yield prefix + name, found


def spec(dataset: h5py.Dataset) -> Spec:
    """What ``dataset`` (n, ...) holds a step. Raises ``SourceError`` for object, compound and empty types."""
    import h5py

    if dataset.shape is None:
        raise SourceError(f"{dataset.name} has no data", code="bad_dtype")
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return Spec("string", tuple(dataset.shape[1:]))
    try:
        return Spec.of(dataset.dtype, dataset.shape)
    except SourceError as error:
        raise SourceError(f"{dataset.name}: {error.message}", code=error.code) from None


def load(dataset: h5py.Dataset) -> np.ndarray:
    """The whole of ``dataset``; text as numpy strings."""
    import h5py

    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr(errors="backslashreplace")[()], dtype=str)
    return np.asarray(dataset[()])


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
            yield from to_rgb(self._blocks(child(file, self.path)), self.path, top=self.top, rounding=self.rounding)

    def _blocks(self, dataset: h5py.Dataset) -> Iterator[np.ndarray]:
        chunk = dataset.chunks[0] if dataset.chunks else 1
        row = max(dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64)), 1)
        step = chunk * max(BLOCK_BYTES // (row * chunk), 1)
        for start in range(0, len(dataset), step):
            try:
                yield dataset[start : start + step]
            except FAULTS as error:
                raise SourceError(f"frames of {self.path} cannot be read: {error}", code="damaged_frames") from error
