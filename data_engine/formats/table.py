"""Parquet, Arrow and Feather tables in any layout, by a column map: a row a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EpisodeRef, Format, Probe, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.formats.arrays import EPISODE_BYTES, Layout, Spec
from data_engine.formats.attributes import pick, plain
from data_engine.formats.cells import image_bytes
from data_engine.formats.column_map import ColumnMap, Part, guess
from data_engine.formats.images import decode_rgb
from data_engine.formats.table_columns import SEPARATOR, column_of, field, fields_of, size_of, specs_of
from data_engine.formats.table_files import FAULTS
from data_engine.formats.table_rows import (
    ONE_A_FILE,
    TRIES,
    RowReader,
    RowSpan,
    cells_of,
    files_of,
    first_rows,
    partition_values,
    paths_of,
    rows_by_episode,
    whole_keys,
    with_values,
)  # fmt: skip
from data_engine.model import IMAGES, PROVENANCE, TERMINATED, TIMESTAMP, TRUNCATED

__all__ = ["Table"]

_DEFAULT_FPS = 10.0
_EPISODE = (
    "episode_index",
    "episode_id",
    "episode",
    "ep",
    "traj_id",
    "traj_index",
    "trajectory_id",
    "trajectory",
    "demo",
)
_CLOCK = ("timestamp", "time", "t", "stamp", "ts")
_TEXTS = {
    "task": ("task", "task_name"),
    "language": ("language", "language_instruction", "instruction", "prompt", "lang"),
    "operator": ("operator", "user", "collector"),
    "scene": ("scene", "scene_id", "environment"),
}
_BRACKETS = {"[", "]"}  # a map has no word for a field with them in its name


class Table(Format):
    """A Parquet, Arrow IPC (file or stream) or Feather file, or a folder of them, with hive partitions or without.

    ``map`` says which fields become which columns (:class:`ColumnMap`); members of structs are joined with points.
    ``episodes`` names the field that is the same in all rows of an episode, or is ``.`` where each file is one. Without
    either, the probe answers a proposal of both. Rows are taken in the natural order of the files; those of an episode
    lie together, in one file or over the border of two. Bytes that are PNG or JPEG, alone or as ``{bytes, path}``, can
    be cameras; a path leads to a file of the source or nowhere. Times and dates are whole ticks of their unit.
    """

    name: ClassVar[str] = "table"
    generic: ClassVar[bool] = True

    map: ColumnMap | None = None
    episodes: str | None = None

    def probe(self, source: Source) -> Probe | None:
        """See :meth:`Format.probe`. A proposal unless both ``map`` and ``episodes`` are given."""
        files = files_of(source)
        if not files:
            return None
        try:
            return self._probe(source, files)
        except FAULTS as error:
            raise SourceError(f"{source.uri} is damaged: {error}", code="damaged_file") from error

    def _probe(self, source: Source, files: Sequence[str]) -> Probe:
        head, first = first_rows(source, files)
        whole = whole_keys(files)
        constants = partition_values(first, whole)
        paths = [
            *fields_of(head.schema),
            *(name for name in constants if name not in head.column_names),
        ]
        specs, notes = specs_of(with_values(head, constants), paths, source)
        how = self.episodes or next(
            (p for name in _EPISODE for p in specs if _leaf(p) == name and _is_key(specs[p])), ONE_A_FILE
        )
        known = self.map or _guess(specs, head, how)
        layout = _layout(known, specs)
        runs, more = rows_by_episode(source, files, how, whole)
        fps, said = self._rate(source, known, runs)
        used = {*_used(known), how}
        left = [path for path in specs if path not in used]
        notes += [f"not in the map and left out: {', '.join(left)}"] if left and self.map else []
        options: dict[str, Any] = {"episodes": how, "map": known.as_options()}
        if self.fps is None and known.clock is None:
            options["fps"] = _DEFAULT_FPS
        sure = self.map is not None and self.episodes is not None
        return Probe(
            format=self.name,
            fps=fps,
            features=layout.features,
            episodes=tuple(
                EpisodeRef(key, None if rows is None else sum(r.stop - r.start for r in rows), paths_of(rows))
                for key, rows in runs.items()
            ),
            embodiment=self.embodiment or "unknown",
            control_mode=self.control_mode,
            licence=self.licence,
            provenance=self.provenance,
            notes=(*notes, *more, *said),
            context={"map": known, "specs": specs, "layout": layout, "places": runs, "whole": whole},
            proposal=None if sure else {**self.model_dump(mode="json", exclude_unset=True), **options},
        )

    def _rate(
        self, source: Source, known: ColumnMap, runs: Mapping[str, tuple[RowSpan, ...] | None]
    ) -> tuple[float, list[str]]:
        """Frames a second, and a note: stated, of the first clock that can be read, or assumed."""
        if self.fps is not None:
            return self.fps, []
        if known.clock is not None:
            reader = RowReader(source, whole_keys(span.path for rows in runs.values() for span in rows or ()))
            for rows in list(runs.values())[:TRIES]:
                try:
                    gaps = np.diff(_clock(reader.table(rows or (), [known.clock]), known))
                except (EngineError, *FAULTS):
                    continue
                if len(gaps) and (gap := float(np.median(gaps))) > 0:
                    return float(f"{1 / gap:.4g}"), [f"fps {1 / gap:.4g} is the median rate of the recorded clock"]
        return _DEFAULT_FPS, [f"fps is not stated: {_DEFAULT_FPS:g} is assumed; give the option fps"]

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """See :meth:`Format.read`. The last group of rows is kept, so episodes that share one decode it once."""
        reader = RowReader(source, probe.context["whole"])
        for key in keys:
            found: SourceEpisode | Unreadable
            try:
                found = self._episode(source, probe, key, reader)
            except EngineError as error:
                found = Unreadable(key, error.code, error.message)
            except FAULTS as error:
                found = Unreadable(key, "damaged", " ".join(f"{key} cannot be read: {error}".split()))
            yield found

    def _episode(self, source: Source, probe: Probe, key: str, reader: RowReader) -> SourceEpisode:
        known, specs, layout = (probe.context[name] for name in ("map", "specs", "layout"))
        if key not in probe.context["places"]:
            raise SourceError("the source has no such episode", code="unknown_key")
        rows = probe.context["places"][key]
        if rows is None:
            raise SourceError("its rows do not lie together", code="scattered", fix="sort the table by episode")
        n = sum(span.stop - span.start for span in rows)
        if not n:
            raise SourceError("the episode holds no steps", code="empty_episode")
        wanted = _used(known) - set(known.cameras.values())
        if n * size_of({path: specs[path] for path in wanted if path in specs}) > EPISODE_BYTES:
            raise SourceError(f"{n} rows are more than {EPISODE_BYTES >> 30} GiB", code="too_large")
        table = reader.table(rows, sorted(wanted))
        even = self.fps is not None or known.clock is None
        clock = np.arange(n) / probe.fps if even else _clock(table, known)
        columns = {TIMESTAMP: pa.array(clock)}
        for feature in layout.features:
            if not feature.is_camera:
                columns[feature.name] = column_of(table, feature, known.parts(feature.name), specs)
        stated, notes = _fields(table, known)
        options = {"task": self.task, "operator": self.operator, "provenance": self.provenance}
        return SourceEpisode(
            key=key,
            steps=pa.table(columns),
            cameras={
                camera: RawFrames(partial(_frames, source, rows, path, specs[path]), *specs[path].shape[:2])
                for camera, path in known.cameras.items()
            },
            notes=tuple(notes),
            **{**stated, **{name: value for name, value in options.items() if value is not None}},
        )


def _guess(specs: Mapping[str, Spec], head: pa.Table, how: str) -> ColumnMap:
    """:func:`guess`, with the clock and the texts that an episode holds once put where they belong."""
    rest = {
        path: spec
        for path, spec in specs.items()
        if path != how and spec.size and not _BRACKETS & set(path) and (spec.is_rgb or not path.startswith(IMAGES))
    }
    clock = next((path for name in _CLOCK for path in rest if _leaf(path) == name and _is_number(rest[path])), None)
    texts = {
        name: path
        for name, leaves in _TEXTS.items()
        if (path := next((p for leaf in leaves for p in rest if _leaf(p) == leaf and rest[p].dtype == "string"), None))
    }
    success = next((path for path in rest if _leaf(path) == "success" and rest[path] == Spec("bool", ())), None)
    taken = {clock, success, *texts.values()}
    found = guess({path: spec for path, spec in rest.items() if path not in taken}, SEPARATOR)
    return found.model_copy(
        update={
            "episode": {**texts, **({"success": success} if success else {})},
            "clock": clock,
            "clock_unit": _unit(field(head, clock)) if clock else "s",
        }
    )


def _unit(array: pa.Array) -> str:
    """The unit of a clock: its type's own; of whole numbers, the one in which steps take 1 ms to 1 s; else seconds."""
    if pa.types.is_timestamp(array.type) or pa.types.is_duration(array.type):
        return str(array.type.unit)
    if not pa.types.is_integer(array.type) or len(array) < 2:
        return "s"
    gap = (
        abs(float(np.median(np.diff(array.drop_null().to_numpy(zero_copy_only=False)))))
        if len(array.drop_null()) > 1
        else 0
    )
    return "ns" if gap >= 1e6 else "us" if gap >= 1e3 else "ms" if gap >= 5 else "s"


def _clock(table: pa.Table, known: ColumnMap) -> np.ndarray:
    """Seconds since the first step, float64 [n]. Raises ``SourceError`` for a missing time."""
    array = field(table, str(known.clock))
    scale = known.clock_scale
    if pa.types.is_timestamp(array.type) or pa.types.is_duration(array.type):
        scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[array.type.unit]
        array = array.cast(pa.int64())
    if array.null_count or not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise SourceError(f"{known.clock} lacks times or holds {array.type}", code="bad_clock")
    ticks = array.to_numpy(zero_copy_only=False)
    return (ticks - ticks[:1]).astype(np.float64) * scale  # whole ticks are exact


def _layout(known: ColumnMap, specs: Mapping[str, Spec]) -> Layout:
    """The columns of the map. Raises ``RequestError`` for a field that is not there or cannot be what it says."""
    parts = {text: Part.parse(text) for fields in known.columns.values() for text in fields}
    for path in sorted({part.path for part in parts.values()} | _used(known)):
        if path not in specs:
            raise RequestError(
                f"the map names {path!r}, which the table has no column form of",
                code="bad_map",
                fix="`data-engine ingest URI --dry-run` without the map lists the fields",
            )
    for camera, path in known.cameras.items():
        if not specs[path].is_rgb:
            raise RequestError(f"the map makes the camera {camera} of {path!r}, which holds no images", code="bad_map")
    whole = {
        text: specs[part.path]
        if not part.start and part.stop is None
        else Spec(specs[part.path].dtype, (part.width(specs[part.path]),))
        for text, part in parts.items()
    }
    pictures = {path: specs[path] for path in known.cameras.values()}
    flags = frozenset({TERMINATED, TRUNCATED} & known.columns.keys())
    return Layout({**whole, **pictures}, dict(known.columns), dict(known.cameras), flags)


def _used(known: ColumnMap) -> set[str]:
    return {Part.parse(text).path for text in known.fields}


def _fields(table: pa.Table, known: ColumnMap) -> tuple[dict[str, Any], list[str]]:
    """What the map says an episode holds once, and notes. Of several values language keeps all, success any."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name, path in known.episode.items():
        values = [path[1:]] if path.startswith("=") else field(table, path).drop_null().unique().to_pylist()
        values = [plain(value) for value in values]
        if name == "language":
            found[name] = [str(value) for value in values]
        elif name == "success" and values and all(value in (0, 1, True, False) for value in values):
            found[name] = any(values)
        elif len(values) == 1:
            found[name] = str(values[0])
        elif values:
            notes.append(f"{path} changes within the episode: {name} is null")
        if not values:
            notes.append(f"no {path}: {name} is null")
    provenance = found.pop("provenance", None)
    if provenance is not None and provenance not in PROVENANCE:
        notes.append(f"provenance {provenance!r} is none of {', '.join(PROVENANCE)}: null")
        provenance = None
    return {**pick(found), **({"provenance": provenance} if provenance else {})}, notes


def _frames(source: Source, rows: Sequence[RowSpan], path: str, spec: Spec) -> Iterator[np.ndarray]:
    """The images of an episode, decoded one at a time. Raises ``SourceError`` for one that is missing or damaged."""
    for number, cell in enumerate(cells_of(source, rows, path)):
        try:
            yield decode_rgb(image_bytes(cell, source), spec.image_shape[:2])
        except EngineError as error:
            raise SourceError(f"{path}, step {number}: {error.message}", code=error.code) from error


def _leaf(path: str) -> str:
    return path.rsplit(SEPARATOR, 1)[-1].lower()


def _is_number(spec: Spec) -> bool:
    return spec.shape == () and spec.dtype not in ("string", "bytes", "bool")


def _is_key(spec: Spec) -> bool:
    return spec.shape == () and (spec.dtype == "string" or "int" in spec.dtype)
