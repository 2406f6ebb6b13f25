"""Ranges of a file, local or remote, and the decompression of what they hold: sizes are checked before allocating."""

from __future__ import annotations

import bz2
import os
from typing import Any

from data_engine.errors import SourceError
from data_engine.formats import Source

__all__ = ["CHUNK_BYTES", "Ranges", "inflate"]

CHUNK_BYTES = 512 << 20  # a chunk or message beyond it is refused; recorders make chunks of 1 to 16 MiB
_WINDOW = 1 << 20  # the least that is asked of a remote store


class Ranges:
    """A file by ranges: exact ones locally, at least 1 MiB at a time from a remote store."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._file: int | None = None
        self._window = (0, b"")
        if source.is_local:
            self._file = os.open(source.path(), os.O_RDONLY)
            self.size = os.fstat(self._file).st_size
        else:
            self.size = source.stamp()[0]

    def read(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start``. Raises ``SourceError`` (``truncated``) where the file does not hold them."""
        if start < 0 or size < 0 or start + size > self.size:
            raise SourceError(f"{self.source.uri} ends before byte {start + size}", code="truncated")
        if self._file is not None:
            data = os.pread(self._file, size, start)
        else:
            at, held = self._window
            if not at <= start <= start + size <= at + len(held):
                stop = min(max(start + size, start + _WINDOW), self.size)
                at, held = self._window = start, self.source.fs.cat_file(self.source.root, start=start, end=stop)
            data = held[start - at : start - at + size]
        if len(data) != size:
            raise SourceError(f"{self.source.uri} ends before byte {start + size}", code="truncated")
        return data

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def inflate(data: Any, how: str, size: int | None, what: str) -> bytes:
    """``data`` decompressed by ``how`` (``none`` or empty, ``lz4``, ``zstd``, ``bz2``) to ``size`` bytes.

    ``size`` None: whatever it comes to. Raises ``SourceError`` where it is, or would become, another size or more than
    512 MiB: no more than that is ever allocated, whatever the data claims.
    """
    most = CHUNK_BYTES if size is None else size
    if most > CHUNK_BYTES:
        raise SourceError(f"{what} declares {most >> 20} MiB", code="too_large")
    try:
        out = _inflated(data, how, most)
    except (OSError, EOFError, ValueError, RuntimeError, MemoryError) as error:
        raise SourceError(f"{what} is damaged: {error}", code="damaged_chunk") from None
    if len(out) > most or (size is not None and len(out) != size):
        raise SourceError(f"{what} does not decompress to the {most} bytes that it may", code="damaged_chunk")
    return out


def _inflated(data: Any, how: str, most: int) -> bytes:
    """At most one byte more than ``most``."""
    if how in ("", "none"):
        return bytes(data)
    if how == "bz2":
        return bz2.BZ2Decompressor().decompress(data, max_length=most + 1)
    if how == "lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=most + 1)
    if how == "zstd":
        import zstandard

        try:
            if zstandard.frame_content_size(bytes(data[:18])) == most:  # a frame's own claim is allocated unasked
                return zstandard.ZstdDecompressor().decompress(data, max_output_size=most)
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
                parts, got = [], 0
                while got <= most and (part := stream.read(min(most + 1 - got, 1 << 20))):
                    parts.append(part)
                    got += len(part)
                return b"".join(parts)
        except zstandard.ZstdError as error:
            raise ValueError(error) from None
    raise ValueError(f"compression {how!r} is not known")
