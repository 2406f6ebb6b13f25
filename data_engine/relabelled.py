"""Columns of a mixture that annotations give: a reward that was learned, progress, a span's language, one value a step.

They lie beside the mixture's other tables as ``labels.parquet``: a row a row of its episodes, a list<float32> or
list<string> a column, null where nothing was said of the range. Whoever reads a mixture's steps finds them among its
other columns, in the place of a recorded one of that name. The steps files stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from data_engine.canonical import digest
from data_engine.document import LabelColumn
from data_engine.errors import RequestError
from data_engine.model import ACTION, IMAGES, STATE, TIMESTAMP, Dataset, Feature

__all__ = ["LABELS", "check", "content", "described", "labelled", "schema", "texts_of", "values_of"]

LABELS = "labels.parquet"
_KEPT = (STATE, ACTION, TIMESTAMP)  # what a trainer takes for recorded


def schema(columns: Sequence[LabelColumn]) -> pa.Schema:
    """That of ``labels.parquet``."""
    kinds = {"number": pa.float32(), "text": pa.string()}
    return pa.schema([(column.name, pa.list_(kinds[column.of])) for column in columns])


def check(labels: pa.Table, columns: Sequence[LabelColumn], counts: Sequence[int]) -> None:
    """Raise ``RequestError`` where ``labels`` are not ``columns`` of ``counts`` steps each, or one may not be given."""
    names = [column.name for column in columns]
    if names != labels.column_names or len(set(names)) < len(names):
        raise RequestError(f"columns {', '.join(names)} are not the labels given", code="bad_mixture")
    for name in names:
        if name in _KEPT or name.startswith(IMAGES):
            raise RequestError(f"column {name!r} cannot be one of labels", code="bad_mixture", fix="name it otherwise")
        for count, values in zip(counts, labels[name], strict=True):
            if values.is_valid and len(values.values) != count:
                raise RequestError(f"{len(values.values)} values of {name!r} for {count} steps", code="bad_mixture")


def content(labels: pa.Table) -> str:
    """A hash of the values, whatever the bytes of the file; NaN counts as one."""
    parts = []
    for name in labels.column_names:
        if _is_text(labels, name):
            parts.append([name, digest(labels[name].to_pylist())])
            continue
        sha = hashlib.sha256()
        for values in labels[name]:
            found = None if not values.is_valid else _numbers(values)
            sha.update(b"null" if found is None else len(found).to_bytes(8, "big") + _plain(found))
        parts.append([name, sha.hexdigest()])
    return digest(parts)


def described(dataset: Dataset, columns: Sequence[LabelColumn]) -> Dataset:
    """``dataset`` with a float32 or string feature for each of ``columns``, in the place of its own of that name."""
    names = [column.name for column in columns]
    others = tuple(feature for feature in dataset.features if feature.name not in names)
    dtypes = {"number": "float32", "text": "string"}
    added = tuple(Feature(name=column.name, dtype=dtypes[column.of]) for column in columns)
    return dataset.model_copy(update={"features": others + added})


def labelled(steps: pa.Table, labels: pa.Table, i: int) -> pa.Table:
    """``steps`` of row ``i`` with its labels, the columns that are there in their place. Null where there are none."""
    for name in labels.column_names:
        values, kind = labels[name][i], labels.schema.field(name).type.value_type
        if not values.is_valid:
            column = pa.nulls(steps.num_rows, kind)
        elif _is_text(labels, name):
            column = values.values
        else:
            column = pa.array(_numbers(values), kind, from_pandas=True)
        at = steps.schema.get_field_index(name)
        steps = steps.append_column(name, column) if at < 0 else steps.set_column(at, name, column)
    return steps


def values_of(labels: pa.Table, name: str, rows: np.ndarray, starts: np.ndarray, count: int) -> np.ndarray:
    """float32 [count], NaN where nothing is known: labels ``name`` of ``rows``, from the file row each starts at."""
    found = np.full(count, np.nan, np.float32)
    for i, start in zip(rows.tolist(), starts.tolist(), strict=True):
        values = labels[name][i]
        if values.is_valid:
            numbers = _numbers(values)
            found[start : start + len(numbers)] = numbers
    found.flags.writeable = False
    return found


def texts_of(labels: pa.Table, name: str, rows: np.ndarray, starts: np.ndarray, count: int) -> pa.Array:
    """The same of texts: string [count], null where nothing is said."""
    found = np.full(count, None, object)
    for i, start in zip(rows.tolist(), starts.tolist(), strict=True):
        values = labels[name][i]
        if values.is_valid:
            said = values.values.to_pylist()
            found[start : start + len(said)] = said
    return pa.array(found, pa.string())


def _is_text(labels: pa.Table, name: str) -> bool:
    return bool(pa.types.is_string(labels.schema.field(name).type.value_type))


def _numbers(values: pa.ListScalar) -> np.ndarray:
    return values.values.to_numpy(zero_copy_only=False).astype(np.float32)


def _plain(values: np.ndarray) -> bytes:
    """The bytes of ``values``, little-endian, with one NaN and one zero."""
    return np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0)).astype("<f4").tobytes()
