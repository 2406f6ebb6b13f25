"""LeRobot v2.1 and v2.0: one Parquet file and one mp4 an episode, metadata as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa

from data_engine.defects import Defect
from data_engine.errors import EngineError, SourceError
from data_engine.formats import EncodedVideo, EpisodeRef, Format, Probe, Source, SourceEpisode, Unreadable, json_text
from data_engine.formats.lerobot import Info, attributes_of, episode_key, fill, listed_tasks, read_info
from data_engine.formats.lerobot_files import SUBTASKS, VideoFiles, declare, files_of, in_order, subtasks_of
from data_engine.formats.lerobot_steps import (
    EPISODE,
    TASK,
    Listed,
    Texts,
    cameras_in_parquet,
    episodes_in,
    texts_by_index,
)
from data_engine.formats.table_files import open_parquet
from data_engine.model import IMAGES, Feature

__all__ = ["LeRobotV2"]


class LeRobotV2(Format):
    """Reads LeRobot v2.1 and v2.0 data sets (they differ in their statistics files only, which are not read)."""

    name: ClassVar[str] = "lerobot_v2"

    def probe(self, source: Source) -> Probe | None:
        """What the metadata declare, held against the files that are there; None for another thing than v2."""
        info = read_info(source, "v2.", fps=self.fps)
        if info is None:
            return None
        rows = _episode_rows(source)
        present = frozenset(files_of(source, info.data_path))
        videos = VideoFiles(source, info)
        shared = ["meta/info.json", "meta/episodes.jsonl"]
        shared += [path for path in ("meta/tasks.jsonl", SUBTASKS) if source.exists(path)]
        refs: list[EpisodeRef] = []
        data_files: list[str | None] = []
        filmed = dict.fromkeys((camera.name for camera in info.cameras), False)
        for index, row in rows.items():
            data = _data_path(info, index)
            files = [data] if data in present else []
            data_files.append(data if files else None)
            for camera in info.cameras:
                path, _ = videos.locate(camera, **_place(info, index))
                filmed[camera.name] |= path is not None
                files += [path] if path else []
            refs.append(EpisodeRef(episode_key(index), _length(row), (*files, *shared)))
        unlisted = sorted(path for path in present - set(data_files) if path.endswith(".parquet"))
        notes = [f"{len(unlisted)} data files of no listed episode left out: {unlisted[0]}, ..."] if unlisted else []
        changing = any(len(listed_tasks(row)) > 1 for row in rows.values())
        places = {ref.key: row for ref, row in zip(refs, rows.values(), strict=True)}
        return declare(self, source, info, refs, data_files, filmed, places, notes, changing)

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """The episodes of ``keys``, one file at a time."""
        info = read_info(source, "v2.", fps=self.fps)
        if info is None:
            raise SourceError(f"{source.uri} is no longer LeRobot v2", code="changed")
        refs = {ref.key: ref for ref in probe.episodes}
        texts = {TASK: _tasks(source), "subtask_index": subtasks_of(source)}
        rows: Mapping[str, Mapping[str, Any]] = probe.context["places"]

        def find(key: str) -> Listed | Unreadable:
            files = frozenset(refs[key].files if key in refs else ())
            return _listed(info, rows.get(key), key, probe.features, VideoFiles(source, info, files))

        yield from in_order(self, keys, find, partial(_read_files, source, info, probe.features, texts))


def _read_files(
    source: Source, info: Info, features: Sequence[Feature], texts: Texts, wanted: Sequence[Listed]
) -> Iterator[SourceEpisode | Unreadable]:
    stored = cameras_in_parquet(features)
    for listed in wanted:
        path = _data_path(info, listed.index)
        try:
            file = open_parquet(source, path)
            groups = range(file.num_row_groups)
            columns = [name for name in file.schema_arrow.names if name not in {column for _, column in stored}]
            table = file.read(columns=columns)
            if table.num_rows == 0:
                raise SourceError(f"{path} has no rows", code="no_rows")
            # the file name says which episode it is: sets cut out of larger ones keep their old numbers inside
            inside = table[EPISODE][0].as_py() if EPISODE in columns else listed.index
            images = {
                camera: {"uri": source.uri, "path": path, "column": column, "groups": groups, "index": inside}
                for camera, column in stored
            }
            spans = {listed.index: (0, table.num_rows)}
            yield from episodes_in(table, spans, [listed], features, texts, images)
        except (SourceError, OSError, pa.ArrowException) as error:
            code = error.code if isinstance(error, SourceError) else "bad_file"
            yield Unreadable(listed.key, code, " ".join(str(error).split()))


def _listed(
    info: Info, row: Mapping[str, Any] | None, key: str, features: Sequence[Feature], videos: VideoFiles
) -> Listed | Unreadable:
    """The metadata of one episode, with its videos found."""
    if row is None:
        return Unreadable(key, "unknown_key", "the metadata list no such episode")
    cameras: dict[str, EncodedVideo] = {}
    defects: list[Defect] = []
    for camera in features:
        if camera.dtype != "video":
            continue
        path, note = videos.locate(camera, **_place(info, row[EPISODE]))
        if path is None:
            return Unreadable(key, "missing_video", note)
        defects += [Defect("video_elsewhere", note)] if note else []
        cameras[camera.name.removeprefix(IMAGES)] = videos.span(camera, path)
    return Listed(
        key=key,
        index=row[EPISODE],
        length=_length(row),
        tasks=listed_tasks(row),
        fields=attributes_of(row),
        cameras=cameras,
        defects=tuple(defects),
    )


def _episode_rows(source: Source) -> dict[int, dict[str, Any]]:
    """Episode index -> its line of episodes.jsonl."""
    rows: dict[int, dict[str, Any]] = {}
    for row in _lines(source, "episodes.jsonl"):
        index = row.get(EPISODE)
        if not isinstance(index, int) or index < 0 or index in rows:
            raise SourceError(f"meta/episodes.jsonl lists episode {index!r} twice or wrongly", code="bad_info")
        rows[index] = row
    if not rows:
        raise SourceError(f"{source.uri} lists no episodes in meta/episodes.jsonl", code="no_episodes")
    return dict(sorted(rows.items()))


def _tasks(source: Source) -> dict[int, str]:
    """Task index -> text; empty where the file is not there (the episodes then say so in their notes)."""
    if not source.exists("meta", "tasks.jsonl"):
        return {}
    lines = _lines(source, "tasks.jsonl")
    return texts_by_index((row.get(TASK), row.get("task")) for row in lines)


def _lines(source: Source, name: str) -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    try:
        with source.open("meta", name) as file:
            rows = json_text.lines(file.read())
    except (OSError, ValueError, EngineError) as error:
        raise SourceError(f"meta/{name} is not readable: {error}", code="bad_info") from error
    if not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"meta/{name} holds a line that is no object", code="bad_info")
    return rows


def _length(row: Mapping[str, Any]) -> int | None:
    return row["length"] if isinstance(row.get("length"), int) else None


def _place(info: Info, index: int) -> dict[str, int]:
    return {"episode_chunk": index // info.chunks_size, "episode_index": index}


def _data_path(info: Info, index: int) -> str:
    return fill(info.data_path, **_place(info, index))
