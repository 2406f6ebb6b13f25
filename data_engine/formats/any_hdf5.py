"""HDF5 in a layout that no other format knows, by a column map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from data_engine.formats import Source
from data_engine.formats.arrays import natural
from data_engine.formats.attributes import plain
from data_engine.formats.files import below, member
from data_engine.formats.hdf5 import SUFFIXES, Array, child, is_hdf5, open_file, walk
from data_engine.formats.mapped import MappedArrays
from data_engine.formats.rows import Kept, Rows, block_rows

if TYPE_CHECKING:
    import h5py

__all__ = ["AnyHDF5"]


class AnyHDF5(MappedArrays):
    """An HDF5 file, or a folder of them. See :class:`MappedArrays` for the options."""

    name: ClassVar[str] = "hdf5"

    def files(self, source: Source) -> list[str]:
        """See :meth:`MappedArrays.files`."""
        if source.is_file:
            return [source.relative(source.root)] if is_hdf5(source) else []
        return below(source, SUFFIXES)

    @contextmanager
    def tree(self, source: Source, path: str) -> Iterator[_Tree]:
        """See :meth:`MappedArrays.tree`."""
        with open_file(member(source, path)) as file:
            yield _Tree(file)


class _Tree:
    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._root: dict[str, Rows] | None = None

    def groups(self, group: str) -> list[str]:
        import h5py

        here = self._at(group)
        names = [name for name in here if here.get(name, getclass=True, getlink=True) is h5py.HardLink]
        return sorted((name for name in names if here.get(name, getclass=True) is h5py.Group), key=natural)

    def arrays(self, group: str) -> dict[str, Rows]:
        if group:
            return {path: found for path, found in walk(self._at(group)).items() if found.shape}
        if self._root is None:  # flat arrays may be cut into many episodes that share chunks
            self._root = {path: _kept(found) for path, found in walk(self.file).items() if found.shape}
        return self._root

    def values(self, group: str) -> dict[str, Any]:
        here = self._at(group)
        found = {path: plain(array.load()) for path, array in walk(here).items() if not array.shape}
        return {**found, **{name: plain(value) for name, value in here.attrs.items()}}

    def _at(self, group: str) -> h5py.Group:
        return child(self.file, group) if group else self.file


def _kept(array: Array) -> Rows:
    return Kept(array, block_rows(array.spec, array.chunk))
