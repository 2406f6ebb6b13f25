"""Minari's Arrow and Parquet backends: a folder of tables an episode, spaces nested as structs."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.arrays import EPISODE_BYTES, Spec, natural
from data_engine.formats.rows import Held, Rows

__all__ = ["arrow_arrays", "arrow_episodes"]


def arrow_episodes(source: Source, prefix: str, kind: str) -> dict[str, tuple[str, ...]]:
    """``episode_<number>`` -> its files relative to the source, in order. ``prefix``: the data folder."""
    found = (source.relative(path) for path in source.fs.find(source.path(prefix) if prefix else source.root))
    episodes: dict[str, list[str]] = {}
    for path in sorted(found, key=natural):
        folder = posixpath.dirname(path).removeprefix(prefix)
        if path.endswith("." + kind) and folder.isdecimal():
            episodes.setdefault(f"episode_{folder}", []).append(path)
    return {key: tuple(paths) for key, paths in episodes.items()}


def arrow_arrays(
    source: Source, paths: tuple[str, ...], kind: str, spaces: Mapping[str, Mapping[str, Any]]
) -> dict[str, Rows]:
    """The leaves of an episode's tables by their path (``observations/achieved_goal``), shaped as ``spaces`` say.

    Raises ``SourceError`` for what is no such table. Every array has one row more than there are actions.
    """
    tables = []
    for path in paths:
        try:
            with source.open(path) as file:
                if source.stamp(path)[0] > EPISODE_BYTES:
                    raise SourceError(f"{path} is larger than {EPISODE_BYTES >> 30} GiB", code="too_large")
                tables.append(_table(file, kind))
        except (pa.ArrowException, OSError, EOFError) as error:
            raise SourceError(f"{path} cannot be read: {error}", code="damaged_file") from error
    table = pa.concat_tables(tables).combine_chunks()
    if table.nbytes > EPISODE_BYTES:
        raise SourceError(f"{paths[0]} holds more than {EPISODE_BYTES >> 30} GiB", code="too_large")
    arrays: dict[str, Rows] = {}
    for field in table.schema:
        if field.name != "episode_id":
            column = table.column(field.name)
            whole = column.chunk(0) if column.num_chunks else pa.array([], field.type)
            _leaves(arrays, field.name, whole, field, spaces.get(field.name, {}))
    return arrays


def _table(file: Any, kind: str) -> pa.Table:
    if kind == "parquet":
        import pyarrow.parquet as pq

        return pq.ParquetFile(file).read()
    table = pa.ipc.open_file(pa.BufferReader(file.read())).read_all()
    table.validate(full=True)
    return table


def _leaves(arrays: dict[str, Rows], path: str, array: pa.Array, field: pa.Field, space: Mapping[str, Any]) -> None:
    if pa.types.is_struct(array.type):
        inner = space.get("subspaces")
        for index, part in enumerate(array.type):
            below = inner.get(part.name, {}) if isinstance(inner, dict) else {}
            if isinstance(inner, list) and part.name.isdecimal() and int(part.name) < len(inner):
                below = inner[int(part.name)]
            values = pc.struct_field(array, index)
            _leaves(arrays, f"{path}/{part.name}", values, part, below if isinstance(below, dict) else {})
        return
    found = _held(path, array, _shape(field, space))
    if found is not None:
        arrays[path] = found


def _shape(field: pa.Field, space: Mapping[str, Any]) -> tuple[int, ...] | None:
    """A row's shape, as the space or the column's own metadata has it."""
    stated = space.get("shape")
    if stated is None and field.metadata and b"shape" in field.metadata:
        stated = [int(side) for side in field.metadata[b"shape"].split(b",") if side.strip().isdigit()]
    if not isinstance(stated, list) or not all(isinstance(side, int) and side >= 0 for side in stated):
        return None
    return tuple(stated)


def _held(path: str, array: pa.Array, shape: tuple[int, ...] | None) -> Rows | None:
    kind, n = array.type, len(array)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = np.empty(n, object)
        values[:] = [value or b"" for value in array.to_pylist()]
        return Held(path, values, Spec("bytes", ()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Held(path, np.array(["" if value is None else value for value in array.to_pylist()], dtype=str))
    if pa.types.is_null(kind):
        return None
    if pa.types.is_list(kind) and n:  # older files: lists that happen to be of one length
        lengths = {len(value) for value in array.to_pylist() if value is not None}
        if len(lengths) != 1:
            raise SourceError(f"{path} holds lists of different lengths", code="bad_dtype")
        array = array.cast(pa.list_(kind.value_type, lengths.pop()))
        kind = array.type
    if pa.types.is_fixed_size_list(kind):
        flat = array.flatten().to_numpy(zero_copy_only=False)
        width = kind.list_size
        fits = shape is not None and math.prod(shape) == width
        return Held(path, flat.reshape(n, *(shape if shape is not None and fits else (width,))))
    return Held(path, array.to_numpy(zero_copy_only=False))
