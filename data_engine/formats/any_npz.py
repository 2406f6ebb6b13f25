"""npz files in any layout, by a column map: one an episode, or one of flat arrays and their episodes' ends."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.attributes import plain
from data_engine.formats.files import below, member
from data_engine.formats.mapped import MappedArrays
from data_engine.formats.npz_file import npz_arrays
from data_engine.formats.rows import Kept, Rows, block_rows

__all__ = ["AnyNpz", "open_npz"]


class AnyNpz(MappedArrays):
    """An npz file, or a folder of them. See :class:`MappedArrays` for the options; pickled members are refused."""

    name: ClassVar[str] = "npz"

    def files(self, source: Source) -> list[str]:
        """See :meth:`MappedArrays.files`."""
        if source.is_file:
            return [source.relative(source.root)] if source.root.lower().endswith(".npz") else []
        return below(source, (".npz",))

    @contextmanager
    def tree(self, source: Source, path: str) -> Iterator[_Tree]:
        """See :meth:`MappedArrays.tree`."""
        with open_npz(source, path) as archive:
            yield _Tree(archive)


@contextmanager
def open_npz(source: Source, path: str) -> Iterator[zipfile.ZipFile]:
    """The open npz at ``path``. Raises ``SourceError`` where it is no zip."""
    with member(source, path).open() as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise SourceError(f"{path} is no npz: {error}", code="damaged_file", fix="copy it again") from error
        with archive:
            yield archive


class _Tree:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        found = npz_arrays(archive)
        self._arrays: dict[str, Rows] = {
            name: Kept(array, block_rows(array.spec)) for name, array in found.items() if array.shape
        }
        self._values = {name: plain(array.whole()[()]) for name, array in found.items() if not array.shape}

    def groups(self, group: str) -> list[str]:
        return []

    def arrays(self, group: str) -> dict[str, Rows]:
        prefix = f"{group}/" if group else ""
        return {name.removeprefix(prefix): rows for name, rows in self._arrays.items() if name.startswith(prefix)}

    def values(self, group: str) -> dict[str, Any]:
        return self._values
