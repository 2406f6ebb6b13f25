"""The rows of a mixture as a loader reads them: whole columns, texts as numbers of a dictionary, videos by camera.

``coded`` makes that of the mixture's ``episodes``: a plain Arrow table, which lies uncompressed in the cache where it
is large, mapped by every process of a machine. A million episodes then open in milliseconds, and a worker has little of
its own.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["NUMBERS", "Coded", "coded", "decode"]

NUMBERS = ("start", "stop", "row_start", "row_count", "weight")
_TEXTS = ("split", "task", "dataset", "embodiment", "control_mode", "selection", "steps_file", "provenance")
_VIDEO = ("camera", "blob", "start_s")
_CODE, _BLOB, _START, _ID = "code:", "blob:", "start_s:", "id"


def decode(data: bytes) -> pa.Table:
    """What :func:`coded` needs of the bytes of an ``episodes.parquet``, texts in dictionaries."""
    videos = [f"videos.list.element.{name}" for name in _VIDEO]
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(_TEXTS))
    return file.read(columns=["episode_id", *NUMBERS, *_TEXTS, *videos])


def coded(episodes: pa.Table) -> pa.Table:
    """What :class:`Coded` reads, of ``episodes`` or of :func:`decode`. O(R)."""
    columns = {name: _whole(episodes[name]) for name in NUMBERS}
    for name in _TEXTS:
        columns[_CODE + name] = _encoded(episodes[name])
    ids = _letters(_whole(episodes["episode_id"]))
    columns[_ID] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(ids.itemsize), len(ids), [None, pa.py_buffer(ids)])
    videos = _whole(episodes["videos"])
    parent = pc.list_parent_indices(videos).to_numpy(zero_copy_only=False)
    camera, blob, start_s = (pc.struct_field(pc.list_flatten(videos), name) for name in _VIDEO)
    blob = blob.dictionary_encode()
    for name in camera.unique().to_pylist():
        mine = np.flatnonzero(pc.equal(camera, name).to_numpy(zero_copy_only=False))
        at = np.full(len(ids), -1)
        at[parent[mine]] = mine
        place = pa.array(at, mask=at < 0)
        columns[_BLOB + name] = blob.take(place)
        columns[_START + name] = start_s.take(place).fill_null(float("nan"))
    return pa.table(columns)


class Coded:
    """What :func:`coded` made, as arrays over the R rows that copy nothing."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._known: dict[str, tuple[pa.Array, np.ndarray]] = {}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @cached_property
    def numbers(self) -> dict[str, np.ndarray]:
        """:data:`NUMBERS`: int64 [R], and ``weight`` float64 [R]."""
        return {name: self._table[name].to_numpy() for name in NUMBERS}

    def codes(self, name: str) -> tuple[pa.Array, np.ndarray]:
        """(the distinct texts of column ``name``, null among them; int32 [R] which of them each row has)."""
        return self._codes(_CODE + name)

    @cached_property
    def ids(self) -> np.ndarray:
        """The episode ids, str [R]."""
        column = _whole(self._table[_ID])
        width = column.type.byte_width
        return np.frombuffer(column.buffers()[1], f"<U{width // 4}", len(column), column.offset * width)

    def video(self, camera: str) -> tuple[pa.Array, np.ndarray, np.ndarray] | None:
        """(the distinct blobs, int32 [R] which each row has, float64 [R] its start in seconds, NaN for a row without),
        None where no row has the camera.
        """
        if _BLOB + camera not in self._table.column_names:
            return None
        return *self._codes(_BLOB + camera), self._table[_START + camera].to_numpy()

    def _codes(self, name: str) -> tuple[pa.Array, np.ndarray]:
        if name not in self._known:
            array = _whole(self._table[name])
            codes = array.indices.fill_null(0) if array.indices.null_count else array.indices
            self._known[name] = array.dictionary, codes.to_numpy(zero_copy_only=False)
        return self._known[name]


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """``column`` as numbers of a dictionary, null one of its values."""
    if pa.types.is_dictionary(column.type):
        if not column.null_count:
            return _whole(column.unify_dictionaries())
        column = column.cast(column.type.value_type)
    return _whole(column).dictionary_encode(null_encoding="encode")


def _letters(texts: pa.Array) -> np.ndarray:
    """``texts`` as str [n], four bytes a letter: indexed without a copy. Quick where they are equally long."""
    lengths = pc.unique(pc.binary_length(texts)).to_pylist()
    if len(lengths) == 1 and lengths[0] and pc.all(pc.string_is_ascii(texts)).as_py() and not texts.null_count:
        width, data = lengths[0], texts.buffers()[2]
        first = int(np.frombuffer(texts.buffers()[1], np.int32)[texts.offset])
        letters = np.frombuffer(data, np.uint8, len(texts) * width, first)
        return letters.astype("<u4").view(f"<U{width}")
    found = np.array(texts.to_pylist(), np.str_)
    return found if found.itemsize else found.astype("<U1")


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks or [pa.array([], column.type)])
