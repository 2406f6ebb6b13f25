"""How much a compressed chunk comes to, asked before a library unpacks it: a few bytes can hold a machine's memory.

A chunk of an array comes to the size that the array declares, and no honest codec makes it much larger than that.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Any

from data_engine.errors import SourceError

__all__ = ["DEFLATE_RATIO", "SPARE_BYTES", "refuse_bomb"]

DEFLATE_RATIO = 1032  # a run of zeros shrinks so far and no further
SPARE_BYTES = 1 << 30  # what a chunk may come to beyond its declared size before it is unpacked to be measured
_OVERHEAD = 64 << 10  # of headers and incompressible data


def refuse_bomb(data: Any, codec: str, size: int, name: str) -> None:
    """Raise ``SourceError`` where ``data`` (bytes-like) of ``codec`` unpacks to much more than ``size`` bytes.

    Codecs: ``zlib``, ``gzip``, ``bz2``, ``lzma``, ``zstd``, ``blosc``, ``lz4``; any other is let pass. The last three
    state their size up front (RFC 8878; the headers of c-blosc and numcodecs). The others are unpacked up to ``size``
    here where they may come to more than ``SPARE_BYTES`` beyond it, which for gzip takes a megabyte.
    """
    view = memoryview(data).cast("B")
    most = size + size // 50 + _OVERHEAD
    if codec not in _UNPACKED:
        return
    found = len(view) if len(view) > most else _UNPACKED[codec](view, most)
    if found > most:
        raise SourceError(f"a chunk of {name} unpacks to more than the {size} bytes declared", code="too_large")


def _inflated(view: memoryview, most: int) -> int:
    if len(view) * DEFLATE_RATIO <= most + SPARE_BYTES:
        return 0
    return _measured(zlib.decompressobj(wbits=47), view, most)  # 47: zlib or gzip, by its header


def _measured(unpacker: Any, view: memoryview, most: int) -> int:
    try:
        return len(unpacker.decompress(view, most + 1))
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
        return 0  # damaged: the library that unpacks it says so


def _zstd(view: memoryview, most: int) -> int:
    head = bytes(view[:18])
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 6:
        return 0
    single, flag = head[4] >> 5 & 1, head[4] >> 6
    width = (single, 2, 4, 8)[flag]
    start = 5 + (not single) + (0, 1, 2, 4)[head[4] & 3]
    if width:
        return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)
    try:
        import zstandard
    except ImportError:
        return most + 1  # it states no size, and nothing here can measure it
    try:
        return len(zstandard.ZstdDecompressor().stream_reader(view).read(most + 1))
    except zstandard.ZstdError:
        return 0


_UNPACKED = {
    "zlib": _inflated,
    "gzip": _inflated,
    "zstd": _zstd,
    "bz2": lambda view, most: _measured(bz2.BZ2Decompressor(), view, most),
    "lzma": lambda view, most: _measured(lzma.LZMADecompressor(), view, most),
    "blosc": lambda view, most: int.from_bytes(view[4:8], "little"),
    "lz4": lambda view, most: int.from_bytes(view[:4], "little"),
}
