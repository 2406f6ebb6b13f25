"""Steps in storage: which Arrow type each source type is kept as, one episode's canonical table, and its content hash.

Types follow the source, except where Delta cannot hold them: float16 -> float32, unsigned -> the next signed (uint64
-> decimal), nanosecond clocks -> int64. Nothing loses precision; the original type and shape stay in the dataset's
features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_engine.canonical import digest
from data_engine.errors import SourceError
from data_engine.model import TIMESTAMP, Feature

__all__ = ["EPISODE_ID", "STEP", "canonical", "content_hash", "hashes", "schema", "steps_hashes", "storage_type"]

EPISODE_ID = "episode_id"
STEP = "step"

_SCALARS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.int16(),
    "uint16": pa.int32(),
    "uint32": pa.int64(),
    "uint64": pa.decimal128(20, 0),
    "float16": pa.float32(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
}


def storage_type(feature: Feature) -> pa.DataType:
    """The Arrow type a feature's values are stored as: a scalar, or a list of the flattened step.

    Raises ``SourceError`` for a dtype that the engine does not store.
    """
    scalar = _SCALARS.get(feature.dtype)
    if scalar is None and feature.dtype.startswith("datetime64"):
        scalar = pa.int64()
    if scalar is None:
        raise SourceError(f"column {feature.name!r} has dtype {feature.dtype!r}, which is not stored", code="bad_dtype")
    return pa.list_(scalar) if feature.shape not in ((), (1,)) else scalar


def schema(features: Sequence[Feature]) -> pa.Schema:
    """The schema of a dataset's steps table: identity, time, then every feature that is no camera, in order.

    Raises ``SourceError`` for a type and for a name that no table can hold: Delta's columns differ in more than case.
    """
    fields = [pa.field(EPISODE_ID, pa.string()), pa.field(STEP, pa.int64()), pa.field(TIMESTAMP, pa.float64())]
    taken = {EPISODE_ID, STEP, TIMESTAMP}
    for feature in features:
        if feature.is_camera or feature.name == TIMESTAMP:
            continue
        if feature.name.lower() in taken or "\0" in feature.name:
            why = "a zero byte in it" if "\0" in feature.name else "a name that is taken already, but for its case"
            raise SourceError(f"column {feature.name!r} has {why}", code="bad_column", fix="rename or leave it out")
        fields.append(pa.field(feature.name, storage_type(feature)))
        taken.add(feature.name.lower())
    return pa.schema(fields)


def canonical(
    steps: pa.Table, features: Sequence[Feature], fps: float, offsets: Sequence[int] | np.ndarray | None = None
) -> pa.Table:
    """One episode's steps as stored, without the identity columns: declared columns, storage types, widths checked.

    With ``offsets`` (int [episodes + 1], the first 0, the last the number of rows) those of several that lie behind one
    another, which costs little more than one. A missing ``timestamp`` is the step's index over ``fps``. Raises
    ``SourceError`` for an empty episode, a declared column that is absent, one that is not declared, and values that do
    not fit the declared type or width, in whichever of the episodes.
    """
    lengths = np.diff([0, steps.num_rows] if offsets is None else offsets)
    if not lengths.all():
        raise SourceError("the episode has no steps", code="empty_episode")
    if TIMESTAMP not in steps.column_names:
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        steps = steps.append_column(TIMESTAMP, pa.array((np.arange(steps.num_rows) - first) / fps))
    wanted = schema(features)
    by_name = {feature.name: feature for feature in features}
    declared = [name for name in wanted.names if name not in (EPISODE_ID, STEP)]
    missing = [name for name in declared if name not in steps.column_names]
    if missing:
        raise SourceError(f"column {missing[0]!r} is declared and absent", code="missing_column")
    extra = [name for name in steps.column_names if name not in declared]
    if extra:
        raise SourceError(f"column {extra[0]!r} is there and not declared", code="undeclared_column")
    columns = []
    for name in declared:
        feature = by_name.get(name, Feature(name=name, dtype="float64"))
        columns.append(_stored(steps.column(name), wanted.field(name).type, feature))
    return pa.table(columns, names=declared)


def content_hash(steps: pa.Table, cameras: Mapping[str, str] | None = None) -> str:
    """sha256 over an episode's canonical step arrays and, per camera, the digest of its frames.

    Column order, chunks and names of anything but the columns do not matter. O(bytes).
    """
    return hashes(steps, cameras)[0]


def hashes(steps: pa.Table, cameras: Mapping[str, str] | None = None) -> tuple[str, str]:
    """(:func:`content_hash`, the same without the cameras), over the steps once."""
    (sha,) = _hashed(steps, (0, len(steps)))
    alone = sha.hexdigest()
    for name in sorted(cameras or {}):
        sha.update(digest("camera", name, (cameras or {})[name]).encode())
    return sha.hexdigest(), alone


def steps_hashes(steps: pa.Table, offsets: Sequence[int] | np.ndarray) -> list[str]:
    """The hash without cameras of each episode [offsets[i], offsets[i + 1]) of canonical ``steps``. O(bytes)."""
    return [sha.hexdigest() for sha in _hashed(steps, offsets)]


def _hashed(steps: pa.Table, offsets: Sequence[int] | np.ndarray) -> list[hashlib._Hash]:
    spans = list(pairwise(map(int, offsets)))
    found = [hashlib.sha256() for _ in spans]
    for name in sorted(steps.column_names):
        array = _one_chunk(steps.column(name))
        head = digest("column", name, str(array.type)).encode()
        add = _adder(array)
        for sha, (start, stop) in zip(found, spans, strict=True):
            sha.update(head)
            add(sha, start, stop)
    return found


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _adder(array: pa.Array) -> Callable[[hashlib._Hash, int, int], None]:
    """The function that adds rows [start, stop) of ``array`` to a hash.

    Where nothing is null and all rows are as wide they are cut out of one numpy view: the usual case, and many times as
    fast as a slice of Arrow's for each. Both give the same bytes.
    """

    def by_slice(sha: hashlib._Hash, start: int, stop: int) -> None:
        _hash_array(sha, array.slice(start, stop - start))

    values, width = array, None
    if pa.types.is_list(array.type) and len(array) and not array.null_count:
        widths = np.diff(array.offsets.to_numpy())
        if (widths != widths[0]).any():
            return by_slice
        values, width = array.flatten(), int(widths[0])
    if values.null_count or not (_is_number(values.type) or pa.types.is_boolean(values.type)):
        return by_slice
    flat = values.to_numpy(zero_copy_only=False)

    def by_view(sha: hashlib._Hash, start: int, stop: int) -> None:
        count, head = stop - start, b""
        if width is not None:
            head = _counts(count, 0) + (width.to_bytes(4, "little") if count else b"")
            start, stop, count = start * width, stop * width, count * width
        part = flat[start:stop]
        sha.update(head + _counts(count, 0))
        sha.update(np.packbits(part).data if part.dtype == bool else part.data)

    return by_view


def _hash_array(sha: hashlib._Hash, array: pa.Array) -> None:
    sha.update(_counts(len(array), array.null_count))
    if array.null_count:
        sha.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False).astype(np.int32)
        sha.update(lengths[:1].tobytes() if len(lengths) and (lengths == lengths[0]).all() else lengths.tobytes())
        _hash_array(sha, array.flatten())
    elif _is_number(array.type):
        filled = array.fill_null(0) if array.null_count else array
        sha.update(np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)).data)
    elif pa.types.is_boolean(array.type):
        sha.update(np.packbits(array.fill_null(False).to_numpy(zero_copy_only=False)).tobytes())
    else:
        for value in array.to_pylist():
            data = b"\0" if value is None else (value if isinstance(value, bytes) else str(value).encode())
            sha.update(len(data).to_bytes(8, "big") + data)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _counts(length: int, nulls: int) -> bytes:
    return length.to_bytes(8, "big") + nulls.to_bytes(8, "big")


def _stored(column: pa.ChunkedArray, kind: pa.DataType, feature: Feature) -> pa.Array:
    array = _one_chunk(column)
    name = feature.name
    wide = pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type)
    try:
        if not pa.types.is_list(kind):
            if wide:
                array = _only_entry(array, feature)
            return _cast(array, kind)
        if not wide:
            raise SourceError(f"column {name!r} is scalar, declared as shape {feature.shape}", code="wrong_shape")
        lengths = pc.list_value_length(array)
        if len(lengths) - lengths.null_count and not pc.all(pc.equal(lengths, feature.size)).as_py():
            found = sorted(set(lengths.drop_null().to_pylist()))
            raise SourceError(
                f"column {name!r} has {found} values a step, declared as shape {feature.shape}", code="wrong_shape"
            )
        if array.null_count:
            return array.cast(kind)
        values = _cast(array.flatten(), kind.value_type)
        offsets = pa.array(np.arange(len(array) + 1, dtype=np.int32) * feature.size)
        return pa.ListArray.from_arrays(offsets, values, type=kind)
    except pa.ArrowException as error:
        raise SourceError(f"column {name!r} does not fit {feature.dtype}: {error}", code="wrong_dtype") from error


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_timestamp(array.type) and kind == pa.int64():
        return array.cast(pa.timestamp("ns")).cast(pa.int64())
    return array.cast(kind)


def _only_entry(array: pa.Array, feature: Feature) -> pa.Array:
    lengths = pc.list_value_length(array)
    if pc.any(pc.not_equal(lengths, 1)).as_py():  # nulls, even nothing but nulls, are no lists of another length
        raise SourceError(f"column {feature.name!r} is a list, declared as a scalar", code="wrong_shape")
    if array.null_count:
        return pc.list_element(array, 0)
    return array.flatten()
