"""HDF5 in a layout that no other format knows, by a column map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from data_engine.formats import Source
from data_engine.formats.arrays import natural
from data_engine.formats.attributes import plain
from data_engine.formats.files import below, member
from data_engine.formats.hdf5 import SUFFIXES, child, is_hdf5, members, open_file, split, walk
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
        self._root: tuple[dict[str, Rows], dict[str, Any]] | None = None

    def groups(self, group: str) -> list[str]:
        return sorted((name for name, kind in members(self._at(group)).items() if kind == "group"), key=natural)

    def arrays(self, group: str) -> dict[str, Rows]:
        return split(walk(self._at(group)))[0] if group else self._whole[0]

    def values(self, group: str) -> dict[str, Any]:
        single = split(walk(self._at(group)))[1] if group else self._whole[1]
        return {**single, **{name: plain(value) for name, value in self._at(group).attrs.items()}}

    @property
    def _whole(self) -> tuple[dict[str, Rows], dict[str, Any]]:
        """The file's arrays, kept: they may be cut into many episodes that share chunks."""
        if self._root is None:
            found = walk(self.file)
            kept = {
                path: Kept(array, block_rows(array.spec, array.chunk)) for path, array in found.items() if array.shape
            }
            self._root = dict[str, Rows](kept), split(found)[1]
        return self._root

    def _at(self, group: str) -> h5py.Group:
        return child(self.file, group) if group else self.file
