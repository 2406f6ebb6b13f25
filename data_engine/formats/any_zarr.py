"""zarr in a layout that no other format knows, by a column map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from data_engine.errors import SourceError
from data_engine.formats import Source, rows
from data_engine.formats.arrays import natural
from data_engine.formats.attributes import plain
from data_engine.formats.mapped import MappedArrays
from data_engine.formats.zarr_store import Rows, Store, open_store

__all__ = ["AnyZarr"]


class AnyZarr(MappedArrays):
    """A zarr store, as a folder or a zip. See :class:`MappedArrays` for the options; ``.`` is the whole store."""

    name: ClassVar[str] = "zarr"

    def files(self, source: Source) -> list[str]:
        """See :meth:`MappedArrays.files`."""
        return [] if open_store(source) is None else [source.relative(source.root)]

    @contextmanager
    def tree(self, source: Source, path: str) -> Iterator[_Tree]:
        """See :meth:`MappedArrays.tree`."""
        store = open_store(source)
        if store is None:
            raise SourceError(f"{source.uri} is no zarr group any more")
        yield _Tree(store)


class _Tree:
    def __init__(self, store: Store) -> None:
        self.store = store
        self._seen: dict[str, dict[str, rows.Rows]] = {}
        self._single: dict[str, dict[str, Any]] = {}

    def groups(self, group: str) -> list[str]:
        names = (name for name in self.store.members(group) if not name.startswith("."))
        return sorted((name for name in names if not self.store.is_array(_join(group, name))), key=natural)

    def arrays(self, group: str) -> dict[str, rows.Rows]:
        if group not in self._seen:
            self._seen[group], self._single[group] = {}, {}
            self._walk(group, "")
        return self._seen[group]

    def values(self, group: str) -> dict[str, Any]:
        self.arrays(group)
        attributes = {name: plain(value) for name, value in self.store.attributes(group).items()}
        return {**self._single[group], **attributes}

    def _walk(self, group: str, path: str) -> None:
        for name in self.store.members(_join(group, path)):
            inner = _join(path, name)
            if not self.store.is_array(_join(group, inner)):
                self._walk(group, inner)
                continue
            array = self.store.array(_join(group, inner))
            if array.shape:
                self._seen[group][inner] = Rows(array, inner)
            else:
                self._single[group][inner] = _single(array, inner)


def _single(array: Any, name: str) -> Any:
    try:
        return plain(array[()])
    except Exception as error:  # whatever the codec raises
        raise SourceError(f"{name} is damaged: {error}", code="damaged_chunk") from error


def _join(group: str, name: str) -> str:
    return f"{group}/{name}" if group and name else group or name
