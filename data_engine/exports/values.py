"""A mixture's steps as the arrays that their source held: original dtype, original shape, nothing missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_engine.arrays import to_array
from data_engine.errors import RequestError
from data_engine.model import TIMESTAMP, Feature

__all__ = ["arrow_column", "arrow_type", "episode_arrays", "equal", "nested", "restored"]

Row = Mapping[str, Any]


def restored(rows: Sequence[Row], starts: np.ndarray, steps: pa.Table, feature: Feature, dialect: str) -> np.ndarray:
    """A column of several episodes in its original dtype and shape: [n, *shape], of text an object array [n].

    ``starts`` int64 [episodes]: the first step of each of ``rows``. Raises ``RequestError`` for a missing value:
    ``dialect`` has no place for one, and none is made up.
    """
    if feature.name not in steps.column_names:
        raise RequestError(f"{rows[0]['steps_file']} has no column {feature.name!r}", code="missing_column")
    column = steps[feature.name].combine_chunks()
    entries = column.flatten() if hasattr(column.type, "value_type") else column
    if column.null_count or entries.null_count:
        holes = column.is_null() if column.null_count else pc.list_parent_indices(column).filter(entries.is_null())
        first = pc.index(holes, True).as_py() if column.null_count else holes[0].as_py()
        row = rows[int(np.searchsorted(starts, first, "right")) - 1]
        raise RequestError(
            f"{feature.name!r} lacks values in episode {row['source_key']!r} of {row['dataset']!r}, and {dialect} has"
            " no missing values",
            code="missing_values",
            fix="leave the column out with the exporter's columns, or the episode with a where",
        )
    if feature.dtype == "string":
        return np.array([*entries.to_pylist(), None], object)[:-1].reshape(len(column), *feature.shape)
    if pa.types.is_decimal(entries.type):
        entries = entries.cast(pa.uint64())
    values = entries.to_numpy(zero_copy_only=False).astype(feature.dtype, copy=False)
    if len(values) != len(column) * feature.size:
        raise RequestError(f"{feature.name!r} has {len(values) / len(column):g} values a step, not {feature.size}")
    return values.reshape(len(column), *feature.shape)


def episode_arrays(row: Row, steps: pa.Table, features: Sequence[Feature], dialect: str) -> dict[str, np.ndarray]:
    """One episode's columns by canonical name, as :func:`restored` has them, and ``timestamp`` float64 [n] seconds from
    the range's first step.
    """
    start = np.zeros(1, np.int64)
    found = {feature.name: restored([row], start, steps, feature, dialect) for feature in features}
    times = to_array(steps[TIMESTAMP], TIMESTAMP).astype(np.float64)
    return {**found, TIMESTAMP: times - times[:1]}


def equal(mine: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two arrays have one dtype, one shape and the same values, NaN where NaN is."""
    if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
        return False
    return np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")


def nested(flat: pa.Array, feature: Feature) -> pa.Array:
    """The numbers of several steps in a row as a column of the feature's shape: scalars, fixed-size lists or, where the
    shape has several sides, lists of lists.
    """
    if feature.size == 1:
        return flat
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(flat, feature.size)
    for side in reversed(feature.shape):
        offsets = np.arange(len(flat) // side + 1, dtype=np.int32) * side
        flat = pa.ListArray.from_arrays(pa.array(offsets), flat)
    return flat


def arrow_type(feature: Feature) -> pa.DataType:
    """The Arrow type of a column in its original dtype and shape, as :func:`nested` makes it."""
    if feature.dtype == "string":
        return pa.string()
    kind = pa.from_numpy_dtype(np.dtype(feature.dtype))
    if feature.size == 1:
        return kind
    if len(feature.shape) == 1:
        return pa.list_(kind, feature.size)
    for _ in feature.shape:
        kind = pa.list_(kind)
    return kind


def arrow_column(row: Row, steps: pa.Table, feature: Feature, dialect: str) -> pa.Array:
    """One episode's column in its original dtype and shape, as :func:`arrow_type` has it; what is missing is null."""
    column = steps[feature.name].combine_chunks()
    entries = column.flatten() if hasattr(column.type, "value_type") else column
    if not (column.null_count or entries.null_count):
        if feature.dtype == "string":
            return column.cast(pa.string())
        flat = restored([row], np.zeros(1, np.int64), steps, feature, dialect).reshape(-1)
        return nested(pa.array(flat, pa.from_numpy_dtype(flat.dtype)), feature)
    kind = (
        np.float16 if feature.dtype == "float16" else int if pa.types.is_decimal(entries.type) else lambda value: value
    )
    plain = [None if value is None else kind(value) for value in entries.to_pylist()]
    if feature.size == 1:
        return pa.array(plain, arrow_type(feature))
    found: list[Any] = []
    given = iter(plain)
    for valid in column.is_valid().to_pylist():
        values = [next(given) for _ in range(feature.size)] if valid else None
        found.append(None if values is None else np.array(values, object).reshape(feature.shape).tolist())
    return pa.array(found, arrow_type(feature))
