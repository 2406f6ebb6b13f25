"""Files of one kind below a source: a folder of recordings, one an episode."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from data_engine.formats import LAKE, Source, is_lake
from data_engine.formats.arrays import natural
from data_engine.fs import join

__all__ = ["below", "member"]

_LOOK = 64  # folders listed before giving up on a first file: a source of another kind is told quickly


def below(source: Source, suffixes: Sequence[str]) -> list[str]:
    """Paths, relative to the folder ``source``, of the files with one of ``suffixes``, in natural order.

    Hidden files and folders are passed over, and lakes of ours (the one by default lies in the folder that one stands
    in). Empty where none is near: folders are listed level by level, 64 at most,
    until a first file is found, and only then everything.
    """
    if source.is_file or not _near(source, suffixes):
        return []
    found = [source.relative(path) for path in source.fs.find(source.root)]
    lakes = {folder for path in found for folder, name in [posixpath.split(path)] if name == LAKE and folder}
    ours = tuple(f"{folder}/" for folder in lakes if is_lake(source, folder))
    kept = (path for path in found if path.lower().endswith(tuple(suffixes)) and not path.startswith(ours))
    return sorted((path for path in kept if not any(part.startswith(".") for part in path.split("/"))), key=natural)


def member(source: Source, path: str) -> Source:
    """The file at ``path`` of the folder ``source``, or ``source`` itself where it is that file.

    Raises ``RequestError`` where the path leaves the source.
    """
    if source.is_file:
        return source
    source.path(path)
    return Source(join(source.uri, path))


def _near(source: Source, suffixes: Sequence[str]) -> bool:
    folders, listed = [source.root], 0
    while folders and listed < _LOOK:
        listed += 1
        inner = []
        for entry in source.fs.ls(folders.pop(0), detail=True):
            name = posixpath.basename(entry["name"].rstrip("/"))
            if name.startswith("."):
                continue
            if entry["type"] == "directory":
                inner.append(entry["name"])
            elif name.lower().endswith(tuple(suffixes)):
                return True
        folders += sorted(inner)
    return False
