"""Step columns as numpy arrays: one row a step, missing values as NaN, never as zero."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_engine.errors import SourceError

__all__ = ["is_numeric", "to_array"]

_UINT64 = pa.decimal128(20, 0)  # Delta's tables know no uint64, and no int64 holds it


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type becomes an array: numbers, booleans, or lists of them (decimals and text do
    not).
    """
    kind = kind.value_type if _is_list(kind) else kind
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def to_array(column: pa.ChunkedArray, name: str = "column", *, fill: bool = False) -> np.ndarray:
    """[N] of a scalar column, [N, d] of a list column, in the stored dtype; uint64 where the decimals that keep it are.

    A null is NaN; integers and booleans with nulls come as float64 for that, which rounds beyond 2**53. With ``fill``
    they come as they are stored, 0 where null, for whoever has the NaN as well. Raises ``SourceError`` for text, for
    any other decimals and for lists of unlike lengths.
    """
    kind = column.type.value_type if _is_list(column.type) else column.type
    if not is_numeric(column.type) and kind != _UINT64:
        raise SourceError(f"{name!r} holds {column.type}, which is no array", code="not_numeric")
    array = (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    )
    if not _is_list(array.type):
        return _scalars(array, fill)
    lengths = pc.list_value_length(array).drop_null().unique().to_pylist()
    if len(lengths) > 1:
        raise SourceError(f"{name!r} has {sorted(lengths)} values a step", code="ragged_column")
    width = lengths[0] if lengths else 0
    found = _scalars(array.drop_null().flatten(), fill).reshape(len(array) - array.null_count, width)
    if not array.null_count:
        return found
    is_float = found.dtype.kind == "f"
    out = np.full((len(array), width), 0 if fill and not is_float else np.nan,
                  found.dtype if fill or is_float else np.float64)  # fmt: skip
    out[array.is_valid().to_numpy(zero_copy_only=False)] = found
    return out


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)


def _scalars(array: pa.Array, fill: bool) -> np.ndarray:
    if array.type == _UINT64:
        try:
            array = array.cast(pa.uint64())
        except pa.ArrowInvalid as error:
            raise SourceError(f"a whole number is not below 2**64: {error}", code="not_numeric") from error
    if array.null_count and not pa.types.is_floating(array.type):
        array = array.fill_null(pa.scalar(0).cast(array.type)) if fill else array.cast(pa.float64(), safe=False)
    return array.to_numpy(zero_copy_only=False)
