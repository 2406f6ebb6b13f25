"""From the rows of a LeRobot data file to canonical episodes: whole batches at once, then zero-copy slices."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_engine.defects import Defect
from data_engine.errors import EngineError, SourceError
from data_engine.formats import EncodedVideo, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.model import IMAGES, TIMESTAMP, Feature

__all__ = [
    "Listed",
    "cameras_in_parquet",
    "convert",
    "episodes_in",
    "file_types",
    "image_camera",
    "open_parquet",
    "spans_of",
]

FRAME = "frame_index"
EPISODE = "episode_index"
TASK = "task_index"


@dataclass(frozen=True)
class Listed:
    """An episode as the metadata lists it. ``cameras`` are encoded videos, before the timestamps' shift."""

    key: str
    index: int
    length: int | None
    tasks: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    cameras: Mapping[str, EncodedVideo] = field(default_factory=dict)
    defects: tuple[Defect, ...] = ()


def open_parquet(source: Source, path: str) -> pq.ParquetFile:
    """The Parquet file at ``path`` of ``source``. Raises ``SourceError`` where it is none."""
    try:
        if source.is_local:
            return pq.ParquetFile(source.path(path), memory_map=True)
        return pq.ParquetFile(source.open(path), pre_buffer=True)
    except FileNotFoundError as error:
        raise SourceError(f"{path} is not there", code="missing_file") from error
    except (OSError, pa.ArrowException, EngineError) as error:
        raise SourceError(f"{path} is not readable: {error}", code="bad_file") from error


def file_types(schema: pa.Schema, features: Sequence[Feature]) -> tuple[list[Feature], list[str]]:
    """``features`` with a data file's own types where the declared ones cannot hold them, and a note for each."""
    truth: list[Feature] = []
    notes: list[str] = []
    for feature in features:
        held = None
        if not feature.is_camera and feature.dtype != "string" and feature.source in schema.names:
            held = _leaf(schema.field(feature.source).type)
        if held is not None and held.kind in "biuf" and not np.can_cast(held, feature.dtype, "safe"):
            notes.append(f"{feature.source}: declared {feature.dtype}, the file holds {held.name}")
            feature = feature.model_copy(update={"dtype": held.name})
        truth.append(feature)
    return truth, notes


def convert(table: pa.Table, features: Sequence[Feature]) -> dict[str, pa.Array]:
    """The canonical columns of ``table``, all but cameras; ``timestamp`` as float64, not yet shifted.

    Raises ``SourceError`` for a missing column, a row of another width and a type that cannot be held.
    """
    columns: dict[str, pa.Array] = {}
    for feature in features:
        if feature.is_camera:
            continue
        if feature.source not in table.column_names:
            raise SourceError(f"column {feature.source!r} is declared and not there", code="missing_column")
        try:
            columns[feature.name] = _column(table.column(feature.source).combine_chunks(), feature)
        except (pa.ArrowException, ValueError) as error:
            raise SourceError(f"column {feature.source!r}: {error}", code="bad_column") from error
    return columns


def spans_of(table: pa.Table) -> dict[int, tuple[int, int] | None]:
    """Episode index -> its rows [start, stop) in ``table``; None where they do not lie together."""
    index = table.column(EPISODE).to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(index)) + 1]) if len(index) else np.zeros(0, int)
    stops = np.append(starts[1:], len(index))
    spans: dict[int, tuple[int, int] | None] = {}
    for number, start, stop in zip(index[starts].tolist(), starts.tolist(), stops.tolist(), strict=True):
        spans[number] = None if number in spans else (start, stop)
    return spans


def episodes_in(
    table: pa.Table,
    spans: Mapping[int, tuple[int, int] | None],
    wanted: Sequence[Listed],
    features: Sequence[Feature],
    tasks: Mapping[int, str],
    images: Mapping[str, Mapping[str, Any]],
) -> Iterator[SourceEpisode | Unreadable]:
    """The episodes ``wanted`` out of ``table``. A column that is broken in one episode spoils only that one.

    ``images``: per camera stored in the table's file, the arguments of :func:`image_camera`.
    """
    try:
        columns: dict[str, pa.Array] | None = convert(table, features)
    except SourceError:
        columns = None  # somebody's row is broken: find whose
    known = {feature.source for feature in features} | {FRAME, EPISODE, TASK, "index"}
    extra = tuple(f"column {name!r} is not declared and left out" for name in table.column_names if name not in known)
    declared_sizes = {feature.name.removeprefix(IMAGES): feature.shape[:2] for feature in features if feature.is_camera}
    whole = pa.table(columns) if columns is not None else None
    clock = _numpy(whole, TIMESTAMP)
    frame, task = _numpy(table, FRAME), _numpy(table, TASK)
    succeeded = _numpy(whole, "next.success")
    for listed in wanted:
        span = spans.get(listed.index)
        if span is None:
            reason = "its rows do not lie together" if listed.index in spans else "it has no rows in its data file"
            yield Unreadable(listed.key, "scattered" if listed.index in spans else "no_rows", reason)
            continue
        start, stop = span
        try:
            if whole is None:
                steps = pa.table(convert(table.slice(start, stop - start), features))
                times, flags = _numpy(steps, TIMESTAMP), _numpy(steps, "next.success")
            else:
                steps = whole.slice(start, stop - start)
                times = clock[start:stop] if clock is not None else None
                flags = succeeded[start:stop] if succeeded is not None else None
            cameras = {name: image_camera(**{"index": listed.index, **given}) for name, given in images.items()}
        except SourceError as error:
            yield Unreadable(listed.key, error.code, error.message)
            continue
        notes, defects = [*extra], [*listed.defects]
        for name, camera in cameras.items():
            if (camera.height, camera.width) != declared_sizes[name]:
                notes.append(f"{name}: declared {declared_sizes[name]}, the images are {(camera.height, camera.width)}")
        if listed.length is not None and listed.length != stop - start:
            defects.append(Defect("steps_differ", f"declares {listed.length} steps and has {stop - start}"))
        if frame is not None and not np.array_equal(frame[start:stop], np.arange(stop - start)):
            notes.append("frame_index does not count from 0")
        shift = float(times[0]) if times is not None and np.isfinite(times[0]) else 0.0
        if times is not None and shift != 0.0:
            notes.append(f"timestamps start at {shift:g} s; shifted to 0")
            steps = steps.set_column(steps.column_names.index(TIMESTAMP), TIMESTAMP, pa.array(times - shift))
        said = _tasks(task[start:stop] if task is not None else None, tasks, listed.tasks, notes)
        success = listed.fields.get("success")
        if success is None and flags is not None:
            success = bool(np.any(flags == 1))
        yield SourceEpisode(
            key=listed.key,
            steps=steps,
            cameras={**cameras, **{name: _shifted(video, shift) for name, video in listed.cameras.items()}},
            task=said[0] if said else None,
            language=said,
            success=success,
            operator=listed.fields.get("operator"),
            scene=listed.fields.get("scene"),
            attributes=listed.fields.get("attributes", {}),
            notes=tuple(notes),
            defects=tuple(defects),
        )


def image_camera(uri: str, path: str, column: str, groups: Sequence[int], index: int) -> RawFrames:
    """The frames of episode ``index`` stored as encoded images in ``column`` of a Parquet file, decoded when asked for.

    Raises ``SourceError`` where the first one is no 8-bit image.
    """
    image = _decode(next(_stored(uri, path, column, groups, index)), uri)
    return RawFrames(
        frames=functools.partial(_frames, uri, path, column, tuple(groups), index, image.shape),
        height=image.shape[0],
        width=image.shape[1],
    )


def _frames(
    uri: str, path: str, column: str, groups: Sequence[int], index: int, shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    for number, cell in enumerate(_stored(uri, path, column, groups, index)):
        image = _decode(cell, uri)
        if image.shape != shape:
            raise SourceError(f"{column}: frame {number} is {image.shape}, the first {shape}", code="bad_image")
        yield image


def _stored(uri: str, path: str, column: str, groups: Sequence[int], index: int) -> Iterator[Mapping[str, Any] | None]:
    """The image cells of one episode, a few at a time."""
    file = open_parquet(Source(uri), path)
    if column not in file.schema_arrow.names:
        raise SourceError(f"column {column!r} is declared and not there", code="missing_column")
    names = [EPISODE, column] if EPISODE in file.schema_arrow.names else [column]
    found = False
    for batch in file.iter_batches(batch_size=16, row_groups=list(groups), columns=names):
        if EPISODE in names:
            batch = batch.filter(pc.equal(batch.column(EPISODE), index))
        for cell in batch.column(column):
            found = True
            yield cell.as_py()
    if not found:
        raise SourceError(f"column {column!r} has no images", code="missing_image")


def _decode(cell: Any, uri: str) -> np.ndarray:
    """uint8 [h, w, 3] of an image cell: bytes, or a {bytes, path} struct whose path lies in the source."""
    from PIL import Image

    data = cell.get("bytes") if isinstance(cell, dict) else cell
    try:
        if data is None and isinstance(cell, dict) and cell.get("path"):
            with Source(uri).open(str(cell["path"])) as file:
                data = file.read()
        if not isinstance(data, bytes):
            raise SourceError("an image is missing", code="missing_image")
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.mode not in ("RGB", "L", "RGBA", "P"):
                raise SourceError(f"an image has mode {image.mode}, not 8-bit colour", code="bad_image")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(f"an image is not decodable: {error}", code="bad_image") from error


def _tasks(
    index: np.ndarray | None, tasks: Mapping[int, str], listed: Sequence[str], notes: list[str]
) -> tuple[str, ...]:
    """The distinct task texts in the order of the steps, then those that only the metadata names."""
    found: dict[str, None] = {}
    if index is not None and len(index):
        first = np.sort(np.unique(index, return_index=True)[1]) if (index != index[0]).any() else [0]
        for number in (int(index[position]) for position in first):
            if number in tasks:
                found[tasks[number]] = None
            else:
                notes.append(f"task_index {number} has no task")
    return tuple({**found, **dict.fromkeys(listed)})


def _shifted(video: EncodedVideo, shift: float) -> EncodedVideo:
    """LeRobot shows a step the frame at the span's start plus its own timestamp; ours count from 0."""
    return EncodedVideo(video.path, video.start_s + shift, video.end_s, video.declared) if shift else video


def _numpy(table: pa.Table | None, name: str) -> np.ndarray | None:
    if table is None or name not in table.column_names:
        return None
    column = table.column(name)
    return column.to_numpy() if pa.types.is_primitive(column.type) else None


def _leaf(kind: pa.DataType) -> np.dtype | None:
    while hasattr(kind, "storage_type"):
        kind = kind.storage_type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    try:
        return np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        return None


def _column(array: pa.Array, feature: Feature) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if feature.dtype == "string":
        return array.cast(pa.string())
    depth = _depth(array.type)
    sides = feature.shape if depth == len(feature.shape) else (feature.size,)
    if depth not in (0, len(sides)) or (depth == 0 and feature.size != 1):
        raise ValueError(f"holds {array.type} where the shape is {list(feature.shape)}")
    values, valid = array, None
    if depth:
        valid = array.is_valid() if array.null_count else None
        for side in sides:
            values = _rows(values, side)
    if feature.name == TIMESTAMP:
        return values.cast(pa.float64())
    wanted = pa.from_numpy_dtype(np.dtype(feature.dtype))
    if values.type != wanted:
        held = _leaf(values.type)
        if held is None or not np.can_cast(held, feature.dtype, "safe"):
            raise ValueError(f"holds {values.type} where {feature.dtype} is declared")
        values = values.cast(wanted)
    if not feature.shape:
        return values if valid is None else pc.if_else(valid, values, None)
    mask = pc.invert(valid) if valid is not None else None
    return pa.FixedSizeListArray.from_arrays(values, feature.size, mask=mask)


def _depth(kind: pa.DataType) -> int:
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth


def _rows(array: pa.Array, side: int) -> pa.Array:
    """The entries of a list array whose every row has ``side`` of them; a null row counts as ``side`` nulls."""
    if pa.types.is_fixed_size_list(array.type):
        if array.type.list_size != side:
            raise ValueError(f"rows of {array.type.list_size} where {side} are declared")
        return array.values.slice(array.offset * side, len(array) * side)
    lengths = pc.list_value_length(array)
    if pc.any(pc.not_equal(lengths, side)).as_py():
        raise ValueError(f"rows of other widths than {side}")
    if array.null_count:
        return array.cast(pa.list_(array.type.value_type, side)).values
    return array.flatten()


def cameras_in_parquet(features: Sequence[Feature]) -> list[tuple[str, str]]:
    """(camera, column) of every camera whose images lie in the data files."""
    return [
        (feature.name.removeprefix(IMAGES), str(feature.source)) for feature in features if feature.dtype == "image"
    ]
