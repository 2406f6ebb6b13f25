"""LeRobot v3.0: many episodes a Parquet file, many episodes an mp4, per-episode metadata as Parquet."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_engine.defects import Defect
from data_engine.errors import SourceError
from data_engine.formats import EncodedVideo, EpisodeRef, Format, Probe, Source, SourceEpisode, Unreadable
from data_engine.formats.lerobot import Info, attributes_of, episode_key, fill, read_info
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
        rows = _episode_rows(source)
        present = frozenset(files_of(source, info.data_path))
        videos = VideoFiles(source, info)
        shared = ["meta/info.json", *(path for path in ("meta/tasks.parquet", SUBTASKS) if source.exists(path))]
        refs: list[EpisodeRef] = []
        data_files: list[str | None] = []
        filmed = dict.fromkeys((camera.name for camera in info.cameras), False)
        for row in rows:
            data = _data_path(info, row)
            files = [data] if data in present else []
            data_files.append(data if files else None)
            for camera in info.cameras:
                path, _ = _video(videos, camera, row)
                filmed[camera.name] |= path is not None
                files += [path] if path else []
            refs.append(EpisodeRef(episode_key(row[EPISODE]), row.get("length"), (*files, row["file"], *shared)))
        changing = any(len(row.get("tasks") or ()) > 1 for row in rows)
        return declare(self, source, info, refs, data_files, filmed, changing=changing)

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """The episodes of ``keys``, data file by data file, row groups in bounded batches."""
        info = read_info(source, "v3.", fps=self.fps)
        if info is None:
            raise SourceError(f"{source.uri} is no longer LeRobot v3", code="changed")
        refs = {ref.key: ref for ref in probe.episodes}
        texts = {TASK: lookup(source, "meta/tasks.parquet", TASK, "task"), "subtask_index": subtasks_of(source)}
        files = {file for key in keys if key in refs for file in refs[key].files if file.startswith(_EPISODES)}
        wanted = [int(key.rpartition("_")[2]) for key in keys if key in refs]
        rows = {episode_key(row[EPISODE]): row for row in _episode_rows(source, files, wanted)} if files else {}

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
        if EPISODE not in file.schema_arrow.names:
            raise SourceError(f"{path} has no column {EPISODE!r}", code="missing_column")
        stored = cameras_in_parquet(features)
        columns = [name for name in file.schema_arrow.names if name not in {column for _, column in stored}]
        for batch, groups in _batches(file, wanted, columns):
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


def _batches(
    file: pq.ParquetFile, wanted: Sequence[Listed], columns: Sequence[str]
) -> Iterator[tuple[list[Listed], list[int]]]:
    """``wanted`` cut into runs whose row groups fit the memory bound, with those row groups."""
    meta = file.metadata
    positions = [i for i in range(meta.num_columns) if meta.schema.column(i).path.split(".", 1)[0] in columns]
    at = next(i for i in positions if meta.schema.column(i).path == EPISODE)
    low, high = np.zeros(meta.num_row_groups, np.int64), np.full(meta.num_row_groups, np.iinfo(np.int64).max)
    size = np.zeros(meta.num_row_groups, np.int64)
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        whole = len(positions) == meta.num_columns
        size[number] = (
            group.total_byte_size if whole else sum(group.column(i).total_uncompressed_size for i in positions)
        )
        statistics = group.column(at).statistics
        if statistics is not None and statistics.has_min_max:
            low[number], high[number] = statistics.min, statistics.max
    batch: list[Listed] = []
    held: set[int] = set()
    for listed in wanted:
        groups = set(np.flatnonzero((low <= listed.index) & (listed.index <= high)).tolist())
        if batch and not groups <= held and sum(size[list(held | groups)]) > _BATCH_BYTES:
            yield batch, sorted(held)
            batch, held = [], set()
        batch.append(listed)
        held |= groups
    if batch:
        yield batch, sorted(held)


def _episode_rows(
    source: Source, files: Collection[str] | None = None, wanted: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """The episodes' metadata without statistics, by episode index; ``file`` is the metadata file of each.

    Of all episodes, or of those ``wanted`` in the metadata ``files``.
    """
    rows: list[dict[str, Any]] = []
    for path in files_under(source, _EPISODES) if files is None else sorted(files):
        if not path.endswith(".parquet"):
            continue
        file = open_parquet(source, path)
        names = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
        try:
            table = file.read(columns=names)
            if wanted is not None and EPISODE in names:
                table = table.filter(pc.is_in(table[EPISODE], pa.array(wanted, table[EPISODE].type)))
            found = table.to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path} is not readable: {error}", code="bad_file") from error
        rows += [{**row, "file": path} for row in found]
    if not rows:
        raise SourceError(f"{source.uri} has no episodes under meta/episodes", code="no_episodes")
    for needed in (EPISODE, "data/chunk_index", "data/file_index"):
        if any(not isinstance(row.get(needed), int) for row in rows):
            raise SourceError(f"meta/episodes lacks {needed!r}", code="missing_column")
    rows.sort(key=lambda row: row[EPISODE])
    for one, other in itertools.pairwise(rows):
        if one[EPISODE] == other[EPISODE]:
            raise SourceError(f"meta/episodes lists episode {one[EPISODE]} twice", code="bad_info")
    return rows


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
        if start is None or end is None or not 0 <= start < end:
            return Unreadable(key, "bad_span", f"{camera.source} spans {start!r} to {end!r} s in its video")
        cameras[camera.name.removeprefix(IMAGES)] = videos.span(camera, path, float(start), float(end))
    return Listed(
        key=key,
        index=row[EPISODE],
        length=row.get("length"),
        tasks=tuple(str(task) for task in row.get("tasks") or ()),
        fields=attributes_of({name: value for name, value in row.items() if name != "file"}),
        cameras=cameras,
        defects=tuple(defects),
    )
