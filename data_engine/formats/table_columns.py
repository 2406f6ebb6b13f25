"""Fields of a table: what they hold a step, and one episode's rows of them as canonical columns. Missing stays null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_engine.arrays import to_array
from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.arrays import Spec
from data_engine.formats.cells import image_bytes
from data_engine.formats.column_map import Part
from data_engine.formats.images import image_size
from data_engine.formats.lerobot_steps import convert
from data_engine.model import Feature

__all__ = ["SEPARATOR", "column_of", "field", "fields_of", "size_of", "specs_of"]

SEPARATOR = "."
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def fields_of(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Every leaf of ``schema`` by its path: struct members joined with points; a struct of an image's bytes is one."""
    return dict(_leaves("", schema))


def _leaves(prefix: str, fields: Any) -> Iterator[tuple[str, pa.DataType]]:
    for entry in fields:
        path, kind = prefix + entry.name, _plain(entry.type)
        if pa.types.is_struct(kind) and not _is_image(kind):
            yield from _leaves(path + SEPARATOR, [kind.field(i) for i in range(kind.num_fields)])
        else:
            yield path, kind


def field(table: pa.Table, path: str) -> pa.Array:
    """The rows of one field in one piece, without dictionary or extension. Raises ``SourceError`` where it is absent.

    A column may have points in its own name: the longest name that is there is the column, the rest lead into it.
    """
    parts = path.split(SEPARATOR)
    for length in range(len(parts), 0, -1):
        name = SEPARATOR.join(parts[:length])
        if table.schema.get_field_index(name) >= 0:
            array: Any = table.column(name)
            for inner in parts[length:]:
                array = _bare(array)
                if not pa.types.is_struct(array.type) or array.type.get_field_index(inner) < 0:
                    break
                array = pc.struct_field(array, inner)
            else:
                return _one(_bare(array))
    raise SourceError(f"there is no column {path!r}", code="missing_column")


def specs_of(table: pa.Table, paths: Sequence[str], source: Source) -> tuple[dict[str, Spec], list[str]]:
    """What each field of a few rows holds a step, and a note on each that no column can hold."""
    specs: dict[str, Spec] = {}
    notes = []
    for path in paths:
        try:
            specs[path] = _spec(field(table, path), source)
        except SourceError as error:
            notes.append(f"{path} is left out: {error.message}")
    return specs, notes


def _spec(array: pa.Array, source: Source) -> Spec:
    kind = array.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return Spec(np.dtype(kind.to_pandas_dtype()).name, ())
    if pa.types.is_temporal(kind):
        return Spec("int64", ())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Spec("string", ())
    if _is_binary(kind) or _is_image(kind):
        first = next((cell for cell in array if cell.is_valid), None)
        data = b"" if first is None else image_bytes(first.as_py(), source)
        if data.startswith(_PICTURES):
            return Spec("uint8", (*image_size(data), 3))
        if _is_image(kind):
            raise SourceError("its images are neither PNG nor JPEG", code="bad_image")
        return Spec("bytes", ())
    sides = []
    while _is_list(array.type):
        if array.null_count:
            array = array.drop_null()
        lengths = pc.list_value_length(array).unique().to_pylist()
        if len(lengths) != 1:
            raise SourceError(
                f"its lists have {', '.join(map(str, sorted(lengths))) or 'no'} entries", code="ragged_column"
            )
        sides.append(int(lengths[0]))
        array = array.flatten()
    if sides and (
        pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)
    ):
        return Spec(np.dtype(array.type.to_pandas_dtype()).name, tuple(sides))
    raise SourceError(f"{kind} has no column form", code="bad_dtype")


def column_of(table: pa.Table, feature: Feature, parts: Sequence[Part], specs: Mapping[str, Spec]) -> pa.Array:
    """One column of an episode's ``table``: a field as it is, or ranges of fields joined.

    A null stays one; of joined fields, a row that lacks one of them is null. Raises ``SourceError`` where rows have
    another width than ``specs`` say, hold another type, or a flag is neither 0 nor 1.
    """
    if len(parts) == 1 and parts[0].start == 0 and parts[0].stop is None:
        return _whole(field(table, parts[0].path), feature)
    values, valid = [], np.ones(table.num_rows, bool)
    for part in parts:
        spec = specs[part.path]
        wanted = Feature(name=part.path, dtype=spec.dtype, shape=spec.shape)
        array = _whole(field(table, part.path), wanted)
        valid &= array.is_valid().to_numpy(zero_copy_only=False)
        found = to_array(pa.chunked_array([array]), part.path).reshape(table.num_rows, -1)
        if found.shape[1] == 0:  # nothing but nulls
            found = np.full((table.num_rows, spec.size), np.nan)
        values.append(part.take(found))
    joined = np.concatenate(values, axis=1)
    joined[~valid] = 0
    dtype = np.dtype(feature.dtype)
    if dtype.kind != "f" and joined.dtype.kind == "f" and not np.isfinite(joined).all():
        raise SourceError(f"{feature.source} has missing entries, which {dtype} cannot hold", code="nulls")
    items = pa.array(np.ascontiguousarray(joined, dtype).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(items, feature.size, mask=None if valid.all() else pa.array(~valid))


def _whole(array: pa.Array, feature: Feature) -> pa.Array:
    if pa.types.is_null(array.type):
        item = {"string": pa.string(), "bytes": pa.binary()}.get(feature.dtype) or pa.from_numpy_dtype(
            np.dtype(feature.dtype)
        )
        return pa.nulls(len(array), pa.list_(item, feature.size) if feature.shape else item)
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.int32()).cast(pa.int64()) if array.type.bit_width == 32 else array.cast(pa.int64())
    if feature.dtype == "bytes":
        return array.cast(pa.binary())
    if feature.dtype == "bool" and not pa.types.is_boolean(array.type):
        if not pc.all(pc.is_in(array.drop_null(), pa.array([0, 1], array.type))).as_py():
            raise SourceError(f"{feature.name} holds values other than 0 and 1", code="bad_flag")
        return array.cast(pa.bool_())
    named = feature.model_copy(update={"source": "column"})
    return _one(convert(pa.table({"column": array}), [named])[feature.name])


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    names = {kind.field(i).name for i in range(kind.num_fields)}
    return "bytes" in names <= {"bytes", "path"} and _is_binary(kind.field("bytes").type)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    kind = getattr(kind, "storage_type", kind)
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _bare(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without extension type and dictionary."""
    if isinstance(array.type, pa.BaseExtensionType):
        array = pa.chunked_array([chunk.storage for chunk in array.chunks], array.type.storage_type)
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def _one(array: Any) -> pa.Array:
    if not isinstance(array, pa.ChunkedArray):
        return array
    return array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks or [pa.array([], array.type)])


def size_of(specs: Mapping[str, Spec]) -> int:
    """Bytes that a step takes at most, of text and bytes 16 each."""
    return sum(8 * math.prod(spec.shape) if spec.dtype not in ("string", "bytes") else 16 for spec in specs.values())
