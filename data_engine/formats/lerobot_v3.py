"""LeRobot v3.0: many episodes a Parquet file, many episodes an mp4, per-episode metadata as Parquet."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.defects import Defect
from data_engine.errors import SourceError
from data_engine.formats import EncodedVideo, EpisodeRef, Format, Probe, Source, SourceEpisode, Unreadable
from data_engine.formats.episode_rows import EpisodeRows
from data_engine.formats.lerobot import Info, attributes_of, episode_key, fill, listed_tasks, read_info
from data_engine.formats.lerobot_files import (
    SUBTASKS,
    VideoFiles,
    declare,
    files_of,
    files_under,
    in_order,
    subtasks_of,
)
from data_engine.formats.lerobot_steps import (
    EPISODE,
    TASK,
    Listed,
    Texts,
    cameras_in_parquet,
    episodes_in,
    lookup,
    spans_of,
)
from data_engine.formats.table_files import open_parquet
from data_engine.model import IMAGES, Feature

__all__ = ["LeRobotV3"]

_EPISODES = "meta/episodes"
_FILE = "meta/ file"  # beside the columns of the metadata: no name of theirs
_BATCH_BYTES = 32 << 20  # of Arrow data held at a time, or one episode where that is more


class LeRobotV3(Format):
    """Reads LeRobot v3.0 data sets: https://github.com/huggingface/lerobot, ``codebase_version`` v3.0.

    Options: the common ones. Row groups are read in batches of at most 32 MiB, so memory does not grow with the set.
    """

    name: ClassVar[str] = "lerobot_v3"

    def probe(self, source: Source) -> Probe | None:
        """What the metadata declare, held against the files that are there; None for another thing than v3."""
        info = read_info(source, "v3.", fps=self.fps)
        if info is None:
            return None
        rows = EpisodeRows(*_episode_table(source))
        present = frozenset(files_of(source, info.data_path))
        videos = VideoFiles(source, info)
        shared = ["meta/info.json", *(path for path in ("meta/tasks.parquet", SUBTASKS) if source.exists(path))]
        table = rows.table
        data_files = [path if path in present else None for path in _data_paths(info, table)]
        found = {camera.name: _video_paths(videos, camera, table) for camera in info.cameras}
        filmed = {name: any(path is not None for path in paths) for name, paths in found.items()}
        lengths = _values(table, "length")
        alike: dict[tuple[str | None, ...], tuple[str, ...]] = {}  # episodes of the same files share one tuple
        refs: list[EpisodeRef] = []
        for key, length, *files in zip(rows, lengths, data_files, *found.values(), _values(table, _FILE), strict=True):
            named = tuple(files)
            if named not in alike:
                alike[named] = (*(path for path in named if path is not None), *shared)
            refs.append(EpisodeRef(key, length, alike[named]))
        changing = any(len(tasks) > 1 for tasks in _values(table, "tasks") if isinstance(tasks, list))
        return declare(self, source, info, refs, data_files, filmed, rows, changing=changing)

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """The episodes of ``keys``, data file by data file, row groups in bounded batches."""
        info = read_info(source, "v3.", fps=self.fps)
        if info is None:
            raise SourceError(f"{source.uri} is no longer LeRobot v3", code="changed")
        refs = {ref.key: ref for ref in probe.episodes}
        texts = {TASK: lookup(source, "meta/tasks.parquet", TASK, "task"), "subtask_index": subtasks_of(source)}
        rows: Mapping[str, Mapping[str, Any]] = probe.context["places"]

        def data_file(key: str) -> str | None:
            return _data_path(info, rows[key]) if key in rows else None

        def find(key: str) -> Listed | Unreadable:
            return _listed(rows[key], key, probe.features, VideoFiles(source, info, frozenset(refs[key].files)))

        for path, group in itertools.groupby(keys, key=data_file):
            if path is None:
                yield from (Unreadable(key, "unknown_key", "the metadata list no such episode") for key in group)
            else:
                yield from in_order(self, group, find, partial(_read_file, source, path, probe.features, texts))


def _read_file(
    source: Source, path: str, features: Sequence[Feature], texts: Texts, wanted: Sequence[Listed]
) -> Iterator[SourceEpisode | Unreadable]:
    """The episodes ``wanted`` of one data file."""
    try:
        file = open_parquet(source, path)
        known = _groups(source, path, source.stamp(path))
        stored = cameras_in_parquet(features)
        unread = {"index", *(column for _, column in stored)}
        columns = [name for name in file.schema_arrow.names if name not in unread]
        for batch, groups in _batches(known, wanted, columns):
            table = file.read_row_groups(groups, columns=columns)
            images = {
                camera: {"uri": source.uri, "path": path, "column": column, "groups": groups}
                for camera, column in stored
            }
            yield from episodes_in(table, spans_of(table), batch, features, texts, images)
            wanted = wanted[len(batch) :]
    except (SourceError, OSError, pa.ArrowException) as error:
        code = error.code if isinstance(error, SourceError) else "bad_file"
        yield from (Unreadable(listed.key, code, " ".join(str(error).split())) for listed in wanted)


@dataclass(frozen=True)
class _Groups:
    """The metadata of a data file, and the least and the largest episode of each row group."""

    metadata: pq.FileMetaData
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, meta: pq.FileMetaData) -> _Groups:
        """Without statistics a group may hold any episode. Raises ``SourceError`` where no column names the episode."""
        columns = {meta.schema.column(i).path: i for i in range(meta.num_columns)}
        if EPISODE not in columns:
            raise SourceError(f"the file has no column {EPISODE!r}", code="missing_column")
        low, high = np.zeros(meta.num_row_groups, np.int64), np.full(meta.num_row_groups, np.iinfo(np.int64).max)
        for number in range(meta.num_row_groups):
            statistics = meta.row_group(number).column(columns[EPISODE]).statistics
            if statistics is not None and statistics.has_min_max:
                low[number], high[number] = statistics.min, statistics.max
        return cls(meta, low, high)

    @cached_property
    def _in_order(self) -> bool:
        return bool((np.diff(self.low) >= 0).all() and (np.diff(self.high) >= 0).all())

    def holding(self, episode: int) -> range | list[int]:
        """The groups that can hold an episode's rows."""
        if self._in_order:
            return range(int(np.searchsorted(self.high, episode)), int(np.searchsorted(self.low, episode, "right")))
        return np.flatnonzero((self.low <= episode) & (episode <= self.high)).tolist()


@lru_cache(maxsize=1)  # the shards of a file follow one another
def _groups(source: Source, path: str, stamp: tuple[int, str]) -> _Groups:
    return _Groups.of(open_parquet(source, path).metadata)


def _batches(
    groups: _Groups, wanted: Sequence[Listed], columns: Sequence[str]
) -> Iterator[tuple[list[Listed], list[int]]]:
    """``wanted`` cut into runs whose row groups fit the memory bound, with those row groups."""
    meta = groups.metadata
    tops = tuple(f"{name}." for name in columns)  # names have dots of their own
    positions = [i for i in range(meta.num_columns) if f"{meta.schema.column(i).path}.".startswith(tops)]

    def size(numbers: Iterable[int]) -> int:
        found = (meta.row_group(number) for number in numbers)
        if len(positions) == meta.num_columns:
            return sum(group.total_byte_size for group in found)
        return sum(group.column(i).total_uncompressed_size for group in found for i in positions)

    batch: list[Listed] = []
    held: set[int] = set()
    total = 0
    for listed in wanted:
        more = set(groups.holding(listed.index)) - held
        extra = size(more)
        if batch and more and total + extra > _BATCH_BYTES:
            yield batch, sorted(held)
            batch, held, total = [], set(), 0
            more = set(groups.holding(listed.index))
            extra = size(more)
        batch.append(listed)
        held |= more
        total += extra
    if batch:
        yield batch, sorted(held)


def _episode_table(source: Source) -> tuple[list[str], pa.Table]:
    """The episodes' metadata without statistics, by episode index, and their keys; ``_FILE`` is the file of each."""
    parts: list[pa.Table] = []
    for path in files_under(source, _EPISODES):
        if not path.endswith(".parquet"):
            continue
        file = open_parquet(source, path, once=True)
        try:
            part = file.read(columns=[name for name in file.schema_arrow.names if not name.startswith("stats/")])
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path} is not readable: {error}", code="bad_file") from error
        parts.append(part.append_column(_FILE, pa.repeat(path, len(part)).dictionary_encode()))
    try:
        table = pa.concat_tables(parts, promote_options="permissive").combine_chunks() if parts else pa.table({})
    except pa.ArrowException as error:
        raise SourceError(f"the files under {_EPISODES} do not agree: {error}", code="bad_info") from error
    if not table.num_rows:
        raise SourceError(f"{source.uri} has no episodes under {_EPISODES}", code="no_episodes")
    for needed in (EPISODE, "data/chunk_index", "data/file_index"):
        column = table[needed] if needed in table.column_names else None
        if column is None or not pa.types.is_integer(column.type) or column.null_count:
            raise SourceError(f"{_EPISODES} lacks {needed!r}", code="missing_column")
    index = table[EPISODE].to_numpy()
    if (np.diff(index) < 0).any():
        table = table.take(np.argsort(index, kind="stable")).combine_chunks()
        index = table[EPISODE].to_numpy()
    twice = np.flatnonzero(np.diff(index) == 0)
    if len(twice):
        raise SourceError(f"{_EPISODES} lists episode {index[twice[0]]} twice", code="bad_info")
    return [episode_key(number) for number in index.tolist()], table


def _values(table: pa.Table, column: str) -> list[Any]:
    """A column as Python values, None throughout where it is absent."""
    return table[column].to_pylist() if column in table.column_names else [None] * len(table)


def _data_paths(info: Info, table: pa.Table) -> list[str]:
    """The data file of each episode, as the metadata name it."""
    places = zip(_values(table, "data/chunk_index"), _values(table, "data/file_index"), strict=True)
    return [fill(info.data_path, chunk_index=chunk, file_index=number) for chunk, number in places]


def _video_paths(videos: VideoFiles, camera: Feature, table: pa.Table) -> list[str | None]:
    """The video of each episode, None where there is none."""
    names = [f"videos/{camera.source}/{name}" for name in ("chunk_index", "file_index")]
    found: dict[tuple[Any, ...], str | None] = {}
    paths = []
    for place in zip(*(_values(table, name) for name in names), strict=True):
        if place not in found:
            found[place] = _video(videos, camera, dict(zip(names, place, strict=True)))[0]
        paths.append(found[place])
    return paths


def _data_path(info: Info, row: Mapping[str, Any]) -> str:
    return fill(info.data_path, chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])


def _video(videos: VideoFiles, camera: Feature, row: Mapping[str, Any]) -> tuple[str | None, str]:
    """(path, note) of an episode's video, or (None, why not)."""
    chunk, number = (row.get(f"videos/{camera.source}/{name}") for name in ("chunk_index", "file_index"))
    if not isinstance(chunk, int) or not isinstance(number, int):
        return None, f"the metadata name no video of {camera.source}"
    return videos.locate(camera, chunk_index=chunk, file_index=number)


def _listed(row: Mapping[str, Any], key: str, features: Sequence[Feature], videos: VideoFiles) -> Listed | Unreadable:
    """The metadata of one episode, with its videos found."""
    cameras: dict[str, EncodedVideo] = {}
    defects: list[Defect] = []
    for camera in features:
        if camera.dtype != "video":
            continue
        path, note = _video(videos, camera, row)
        if path is None:
            return Unreadable(key, "missing_video", note)
        defects += [Defect("video_elsewhere", note)] if note else []
        start, end = (row.get(f"videos/{camera.source}/{edge}_timestamp") for edge in ("from", "to"))
        if not isinstance(start, int | float) or not isinstance(end, int | float) or not 0 <= start < end:
            return Unreadable(key, "bad_span", f"{camera.source} spans {start!r} to {end!r} s in its video")
        cameras[camera.name.removeprefix(IMAGES)] = videos.span(camera, path, float(start), float(end))
    return Listed(
        key=key,
        index=row[EPISODE],
        length=row.get("length"),
        tasks=listed_tasks(row),
        fields=attributes_of(row),
        cameras=cameras,
        defects=tuple(defects),
    )
