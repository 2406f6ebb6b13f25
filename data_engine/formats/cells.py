"""Cells of a table that hold an encoded image: its bytes, or the path of a file of the source."""

from __future__ import annotations

from typing import Any

from data_engine.errors import SourceError
from data_engine.formats import Source

__all__ = ["image_bytes"]


def image_bytes(cell: Any, source: Source) -> bytes:
    """The encoded image of a cell: bytes, or a struct of bytes or of a path that lies in the source.

    Raises ``SourceError`` for a missing one, ``RequestError`` for a path that leaves the source.
    """
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if data is None and isinstance(cell, dict) and cell.get("path"):
        path = str(cell["path"])
        try:
            if source.is_file or "://" in path:
                raise FileNotFoundError
            with source.open(path) as file:
                data = file.read()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise SourceError(f"its image {path!r} is not in the source", code="missing_image") from error
    if not isinstance(data, bytes):
        raise SourceError("an image is missing", code="missing_image")
    return data
