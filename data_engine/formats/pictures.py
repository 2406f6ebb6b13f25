"""Arrays whose rows are JPEG or PNG files: they are told by their first bytes and decoded a row at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats.arrays import BLOCK_BYTES, Spec
from data_engine.formats.images import decode, decode_rgb, image_size
from data_engine.formats.rows import Rows

__all__ = ["Pictures", "pictures"]

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_LEAST = 64  # bytes: no picture is smaller, and no vector of numbers that is smaller needs a look


class Pictures(Rows):
    """Rows that are pictures. A colour picture, or a grey JPEG, is uint8 (h, w, 3); a grey PNG is a plane of numbers,
    uint8 or uint16 (h, w), because it is as often depth or a mask.

    All pictures of an episode have the size of its first. ``kind`` is ``JPEG`` or ``PNG``.
    """

    def __init__(self, rows: Rows, first: bytes) -> None:
        self.rows, self.name = rows, rows.name
        self.kind = "JPEG" if first.startswith(_JPEG) else "PNG"
        size = image_size(first)
        plane = self.kind == "PNG" and first[25:26] == b"\0"  # IHDR: colour type 0 is grey, its depth stands before
        if plane:
            self.spec = Spec("uint16" if first[24] == 16 else "uint8", size)
        else:
            self.spec = Spec("uint8", (*size, 3))

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`. Raises ``SourceError`` for a row that is no picture or one of another size."""
        most = max(BLOCK_BYTES // (self.spec.size * np.dtype(self.spec.dtype).itemsize), 1)
        held: list[np.ndarray] = []
        at = start
        for block in self.rows.blocks(start, stop):
            for row in block:
                held.append(self._decoded(_bytes(row), at))
                at += 1
                if len(held) == most:
                    yield np.stack(held)
                    held = []
        if held:
            yield np.stack(held)

    def _decoded(self, data: bytes, at: int) -> np.ndarray:
        try:
            frame = decode_rgb(data) if len(self.spec.shape) == 3 else decode(data, self.spec.dtype, 1)[..., 0]
        except SourceError as error:
            raise SourceError(f"{self.name}, step {at}: {error.message}", code=error.code) from None
        if frame.shape != self.spec.shape:
            raise SourceError(
                f"{self.name}, step {at}: {frame.shape[1]}x{frame.shape[0]} pixels after "
                f"{self.spec.shape[1]}x{self.spec.shape[0]}",
                code="image_size",
            )
        return frame


def pictures(rows: Rows) -> Rows:
    """``rows`` as :class:`Pictures` where its first row is one: bytes, or bytes padded into text or a uint8 vector."""
    spec = rows.spec
    padded = spec.dtype == "uint8" and len(spec.shape) == 1 and spec.size >= _LEAST
    if not len(rows) or not (padded or (spec.dtype in ("bytes", "string") and spec.shape == ())):
        return rows
    first = _bytes(rows.read(0, 1)[0])
    return Pictures(rows, first) if len(first) >= _LEAST and first.startswith((_JPEG, _PNG)) else rows


def _bytes(row: Any) -> bytes:
    if isinstance(row, np.ndarray):
        return row.tobytes()
    return row if isinstance(row, bytes) else b""
