"""npz and npy files of strangers: never unpickled, every declared size checked before anything is allocated."""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats.arrays import EPISODE_BYTES, Spec
from data_engine.formats.rows import Rows, block_rows

__all__ = ["NpzArray", "npz_arrays", "parse_npy", "read_npy"]

_HEADER = 1 << 16  # bytes: a header is a line of text
_MEMBERS = 4096


class NpzArray(Rows):
    """One member of an open npz. Rows are streamed out of the zip: nothing but a block is ever decompressed at once."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self.archive, self.info = archive, info
        self.name = info.filename.removesuffix(".npy")
        with archive.open(info) as stream:
            self.shape, self._fortran, self.dtype = _header(stream, self.name)
            self._start = stream.tell()
        declared = math.prod(self.shape) * self.dtype.itemsize
        if self._start + declared != info.file_size:
            raise SourceError(
                f"{self.name} declares {declared} bytes and holds {info.file_size - self._start}", code="bad_array"
            )
        self.spec = Spec.of(self.dtype, self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`."""
        if self._fortran and len(self.shape) > 1:  # columns first: no row without the whole
            yield self.whole()[start:stop]
            return
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        step = max(min(block_rows(self.spec), (8 << 20) // max(row, 1)), 1)
        with self.archive.open(self.info) as stream:
            stream.seek(self._start + start * row)
            for at in range(start, stop, step):
                count = min(step, stop - at)
                yield self._parsed(stream.read(count * row), (count, *self.shape[1:]))

    def whole(self) -> np.ndarray:
        """All values, also of an array without rows. Raises ``SourceError`` beyond the limit of an episode."""
        if self.info.file_size > EPISODE_BYTES:
            raise SourceError(f"{self.name} holds more than {EPISODE_BYTES >> 30} GiB", code="too_large")
        with self.archive.open(self.info) as stream:
            stream.seek(self._start)
            data = stream.read()
        if self._fortran:
            return self._parsed(data, self.shape[::-1]).transpose()
        return self._parsed(data, self.shape)

    def _parsed(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        if len(data) != math.prod(shape) * self.dtype.itemsize:
            raise SourceError(f"{self.name} ends early", code="damaged")
        return np.frombuffer(data, self.dtype).reshape(shape)


def npz_arrays(archive: zipfile.ZipFile) -> dict[str, NpzArray]:
    """Every member of an open npz by its name. Raises ``SourceError`` for pickled, compound and lying ones, and for two
    of one name.
    """
    members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    if len(members) > _MEMBERS:
        raise SourceError(f"an npz of {len(members)} members", code="too_large")
    if len({info.filename for info in members}) < len(members):
        raise SourceError("an npz holds two arrays of one name", code="bad_zip", fix="keep the right one")
    for info in members:  # by any other way a few bytes unpack to all there is, whatever size is asked for
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SourceError(f"{info.filename} is neither stored nor deflated", code="bad_zip", fix="pack it so")
    return {found.name: found for found in (NpzArray(archive, info) for info in members)}


def read_npy(file: Any, name: str, size: int) -> np.ndarray:
    """The array of an open npy file of ``size`` bytes. Raises ``SourceError`` as :func:`npz_arrays` does."""
    shape, fortran, dtype = _header(file, name)
    declared = math.prod(shape) * dtype.itemsize
    if declared > EPISODE_BYTES or file.tell() + declared != size:
        raise SourceError(f"{name} declares {declared} bytes and holds {size - file.tell()}", code="bad_array")
    values = np.frombuffer(file.read(declared), dtype)
    return values.reshape(shape[::-1]).transpose() if fortran else values.reshape(shape)


def parse_npy(data: bytes, name: str) -> np.ndarray:
    """The array in the bytes of an npy file. Raises ``SourceError`` as :func:`npz_arrays` does.

    Headers are remembered: a shard of samples holds the same few thousands of times.
    """
    long = data[6:7] != b"\x01"
    start = 12 + int.from_bytes(data[8:12], "little") if long else 10 + int.from_bytes(data[8:10], "little")
    if start > _HEADER:
        raise SourceError(f"{name} is no npy file", code="bad_array")
    try:
        shape, fortran, dtype = _remembered(data[:start])
    except SourceError:
        shape, fortran, dtype = _header(io.BytesIO(data[:start]), name)  # says whose it is
    declared = math.prod(shape) * dtype.itemsize
    if start + declared != len(data):
        raise SourceError(f"{name} declares {declared} bytes and holds {len(data) - start}", code="bad_array")
    values = np.frombuffer(data, dtype, offset=start)
    return values.reshape(shape[::-1]).transpose() if fortran else values.reshape(shape)


@lru_cache(maxsize=256)
def _remembered(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    return _header(io.BytesIO(head), "")


def _header(stream: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream, max_header_size=_HEADER)
    except (ValueError, TypeError, SyntaxError, EOFError, tokenize.TokenError) as error:
        raise SourceError(f"{name} is no npy file: {error}", code="bad_array") from error
    if dtype.hasobject:
        raise SourceError(f"{name} is pickled, which is never read", code="bad_dtype", fix="save plain numbers or text")
    if any(side < 0 for side in shape):
        raise SourceError(f"{name} declares the shape {list(shape)}", code="bad_array")
    return tuple(shape), fortran, dtype
