"""From the rows of a LeRobot data file to canonical episodes: whole batches at once, then zero-copy slices."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_engine.defects import Defect
from data_engine.errors import SourceError
from data_engine.formats import EncodedVideo, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.formats.cells import image_bytes
from data_engine.formats.images import decode_rgb
from data_engine.formats.table_files import open_parquet
from data_engine.model import IMAGES, TIMESTAMP, Feature

__all__ = [
    "Listed",
    "Texts",
    "cameras_in_parquet",
    "convert",
    "episodes_in",
    "file_types",
    "image_camera",
    "lookup",
    "spans_of",
    "text_features",
    "texts_by_index",
]

FRAME = "frame_index"
EPISODE = "episode_index"
TASK = "task_index"
Texts = Mapping[str, Mapping[int, str]]  # index column -> its texts
TEXTS = {"language": TASK, "subtask": "subtask_index"}  # step columns of text -> the index that they are looked up by


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


def lookup(source: Source, path: str, index: str, text: str) -> dict[int, str]:
    """Number -> text of a table that pandas wrote with its texts as index; empty where the file is not there."""
    if not source.exists(path):
        return {}
    table = open_parquet(source, path).read()
    texts = [name for name in table.column_names if name in (text, "__index_level_0__")]
    if index not in table.column_names or not texts:
        raise SourceError(f"{path} has no {index} or no {text}", code="missing_column")
    return texts_by_index(zip(table[index].to_pylist(), table[texts[0]].to_pylist(), strict=True))


def texts_by_index(rows: Iterable[tuple[Any, Any]]) -> dict[int, str]:
    """Number -> text. A number that is none tells nothing, nor does one with two texts: the episodes' own lists do."""
    found: dict[int, set[str]] = {}
    for number, text in rows:
        if isinstance(number, int) and text is not None:
            found.setdefault(number, set()).add(str(text))
    return {number: texts.pop() for number, texts in found.items() if len(texts) == 1}


def text_features(
    schema: pa.Schema, taken: Sequence[Feature], changing: bool, subtasks: bool
) -> tuple[list[Feature], list[str]]:
    """The step columns of text that are looked up: ``language`` where an episode has several tasks, ``subtask``.

    And a note on one whose name a column of the set has already.
    """
    found, notes = [], []
    for name, wanted in (("language", changing), ("subtask", subtasks)):
        if not wanted or TEXTS[name] not in schema.names:
            continue
        if any(feature.name == name for feature in taken):
            notes.append(f"the set has a column {name!r} of its own: the texts of {TEXTS[name]} are not looked up")
        else:
            found.append(Feature(name=name, dtype="string", source=TEXTS[name]))
    return found, notes


def convert(table: pa.Table, features: Sequence[Feature]) -> dict[str, pa.Array]:
    """The canonical columns of ``table``, all but cameras; ``timestamp`` as float64, not yet shifted.

    Raises ``SourceError`` for a missing column, a row of another width and a type that cannot be held.
    """
    columns: dict[str, pa.Array] = {}
    for feature in features:
        if feature.is_camera or is_looked_up(feature):
            continue
        if feature.source not in table.column_names:
            raise SourceError(f"column {feature.source!r} is declared and not there", code="missing_column")
        try:
            columns[feature.name] = _column(table.column(feature.source).combine_chunks(), feature)
        except (pa.ArrowException, ValueError) as error:
            raise SourceError(f"column {feature.source!r}: {error}", code="bad_column") from error
    return columns


def is_looked_up(feature: Feature) -> bool:
    """Whether a feature is the text of an index and no column of the file."""
    return feature.dtype == "string" and TEXTS.get(feature.name) == feature.source


def _looked_up(index: pa.ChunkedArray, texts: Mapping[int, str]) -> pa.Array:
    """The text of each index, null where it has none."""
    known = sorted(texts)
    at = pc.index_in(index.combine_chunks().cast(pa.int64()), pa.array(known, pa.int64()))
    return pa.array([str(texts[number]) for number in known], pa.string()).take(at)


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
    texts: Texts,
    images: Mapping[str, Mapping[str, Any]],
) -> Iterator[SourceEpisode | Unreadable]:
    """The episodes ``wanted`` out of ``table``. A column that is broken in one episode spoils only that one.

    ``texts``: the texts of ``task_index`` and ``subtask_index``. ``images``: per camera stored in
    the table's file, the arguments of :func:`image_camera`.
    """
    looked_up = {
        feature.name: _looked_up(table.column(TEXTS[feature.name]), texts.get(TEXTS[feature.name], {}))
        for feature in features
        if is_looked_up(feature) and feature.source in table.column_names
    }
    try:
        columns: dict[str, pa.Array] | None = convert(table, features) | looked_up
    except SourceError:
        columns = None  # somebody's row is broken: find whose
    known = {feature.source for feature in features} | {FRAME, EPISODE, TASK, "index"}
    extra = tuple(f"column {name!r} is not declared and left out" for name in table.column_names if name not in known)
    declared_sizes = {feature.name.removeprefix(IMAGES): feature.shape[:2] for feature in features if feature.is_camera}
    whole = pa.table(columns) if columns is not None else None
    clock = _numpy(whole, TIMESTAMP)
    frame, task = _numpy(table, FRAME), _numpy(table, TASK)
    succeeded = _numpy(whole, "next.success")
    jumps = [] if frame is None else (np.flatnonzero(frame[1:] != frame[:-1] + 1) + 1).tolist()
    changes = [] if task is None else (np.flatnonzero(task[1:] != task[:-1]) + 1).tolist()
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
                for name, said in looked_up.items():
                    steps = steps.append_column(name, said.slice(start, stop - start))
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
        if frame is not None and (frame[start] != 0 or _any_within(jumps, start, stop)):
            if times is not None and (np.diff(times) < 0).any():
                yield Unreadable(
                    listed.key, "rows_out_of_order", "its rows lie in no order of frame_index and timestamp"
                )
                continue
            notes.append("frame_index does not count from 0")
        shift = float(times[0]) if times is not None and math.isfinite(times[0]) else 0.0
        if times is not None and shift != 0.0:
            notes.append(f"timestamps start at {shift:g} s; shifted to 0")
            steps = steps.set_column(steps.column_names.index(TIMESTAMP), TIMESTAMP, pa.array(times - shift))
        changing = _any_within(changes, start, stop)
        if changing and "language" not in looked_up:
            notes.append("its task changes over its steps, which the metadata do not list: no step keeps its own")
        numbers = () if task is None else task[start : stop if changing else start + 1].tolist()
        tasks = _tasks(numbers, texts.get(TASK, {}), listed.tasks, notes)
        success = listed.fields.get("success")
        if success is None and flags is not None:
            success = bool((flags == 1).any())
        yield SourceEpisode(
            key=listed.key,
            steps=steps,
            cameras={**cameras, **{name: _shifted(video, shift) for name, video in listed.cameras.items()}},
            task=tasks[0] if tasks else None,
            language=tasks,
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
    image = decode_rgb(image_bytes(next(_stored(uri, path, column, groups, index)), Source(uri)))
    return RawFrames(
        frames=functools.partial(_frames, uri, path, column, tuple(groups), index, image.shape),
        height=image.shape[0],
        width=image.shape[1],
    )


def _frames(
    uri: str, path: str, column: str, groups: Sequence[int], index: int, shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    for number, cell in enumerate(_stored(uri, path, column, groups, index)):
        image = decode_rgb(image_bytes(cell, Source(uri)))
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


def _any_within(positions: Sequence[int], start: int, stop: int) -> bool:
    """Whether any of sorted ``positions`` lies after ``start`` and before ``stop``."""
    following = bisect.bisect_right(positions, start)
    return following < len(positions) and positions[following] < stop


def _tasks(
    numbers: Sequence[int], tasks: Mapping[int, str], listed: Sequence[str], notes: list[str]
) -> tuple[str, ...]:
    """The distinct task texts in the order of the steps, then those that only the metadata names."""
    found: dict[str, None] = {}
    for number in {None if math.isnan(number) else number: None for number in numbers}:
        text = None if number is None else tasks.get(number)
        if text is not None:
            found[text] = None
        else:
            notes.append(
                "some of its steps have no task_index"
                if number is None
                else f"task_index {number} has no task, or several"
            )
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
