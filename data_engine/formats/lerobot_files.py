"""Which files a LeRobot source really has, held against what its info.json says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from data_engine.defects import Defect
from data_engine.errors import SourceError
from data_engine.formats import (
    EncodedVideo,
    EpisodeRef,
    Format,
    Probe,
    Source,
    SourceEpisode,
    Unreadable,
)
from data_engine.formats.lerobot import Info, fill
from data_engine.formats.lerobot_steps import Listed, file_types, lookup, text_features
from data_engine.formats.table_files import open_parquet
from data_engine.model import Feature

__all__ = ["SUBTASKS", "VideoFiles", "declare", "files_of", "files_under", "in_order", "subtasks_of"]

SUBTASKS = "meta/subtasks.parquet"


def subtasks_of(source: Source) -> dict[int, str]:
    """Subtask index -> text; empty where the set has none."""
    return lookup(source, SUBTASKS, "subtask_index", "subtask")


def files_under(source: Source, folder: str) -> list[str]:
    """Every file below ``folder``, relative to the source, sorted; none where the folder is absent."""
    if not source.exists(folder):
        return []
    return sorted(source.relative(path) for path in source.fs.find(source.path(folder)))


def files_of(source: Source, template: str) -> list[str]:
    """Every file in the top folder of a path template of info.json."""
    top = template.split("/", 1)[0]
    return files_under(source, "." if "{" in top else top)


@dataclass(frozen=True)
class VideoFiles:
    """The video files that are there, found by template first and by camera and name where the template lies."""

    source: Source
    info: Info
    known: frozenset[str] | None = None  # the files that a probe found to be an episode's: nothing is listed again

    @cached_property
    def present(self) -> frozenset[str]:
        """Every file under ``videos/`` and under the template's own top folder, relative to the source."""
        if self.known is not None:
            return self.known
        if not self.info.cameras:
            return frozenset()
        return frozenset(files_under(self.source, "videos") + files_of(self.source, str(self.info.video_path)))

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], list[str]]:
        """(folder on the way, file name) -> paths."""
        found: dict[tuple[str, str], list[str]] = {}
        for path in sorted(self.present):
            *folders, name = path.split("/")
            for folder in set(folders):
                found.setdefault((folder, name), []).append(path)
        return found

    def locate(self, camera: Feature, **fields: int) -> tuple[str | None, str]:
        """(path, "") of one video; (path, note) where it is elsewhere than declared; (None, reason) where it is absent.

        ``fields`` are the template's chunk and file, or chunk and episode. Raises ``SourceError`` for a bad template.
        """
        declared = fill(str(self.info.video_path), video_key=str(camera.source), **fields)
        if declared in self.present:
            return declared, ""
        elsewhere = self._by_name.get((str(camera.source), declared.rsplit("/", 1)[-1]), [])
        if len(elsewhere) == 1:
            return elsewhere[0], f"the video declared at {declared} is at {elsewhere[0]}"
        return None, f"video {declared} is not there"

    def span(self, camera: Feature, path: str, start_s: float = 0.0, end_s: float | None = None) -> EncodedVideo:
        """The encoded span of one camera of one episode, with what info.json says of its codec, size and fps."""
        spec = self.info.declared[camera.name]
        said = next((told for name in ("info", "video_info") if isinstance(told := spec.get(name), dict)), {})
        height, width = (*camera.shape, None, None)[:2]
        values = {
            "codec": _of(str, said.get("video.codec")),
            "width": _of(int, said.get("video.width", width)),
            "height": _of(int, said.get("video.height", height)),
            "fps": _of(int | float, said.get("video.fps")),
            "pix_fmt": _of(str, said.get("video.pix_fmt")),
        }
        return EncodedVideo(path, start_s, end_s, {name: value for name, value in values.items() if value is not None})


def _of(kind: Any, value: Any) -> Any:
    """``value`` where it is of ``kind``, else None: there is nothing to hold a file against."""
    return value if isinstance(value, kind) else None


def declare(
    options: Format,
    source: Source,
    info: Info,
    refs: Sequence[EpisodeRef],
    data_files: Sequence[str | None],
    filmed: Mapping[str, bool],
    rows: Mapping[str, Mapping[str, Any]],
    notes: Iterable[str] = (),
    changing: bool = False,
) -> Probe:
    """The probe of a LeRobot source. ``changing``: whether the metadata list several tasks of one episode.

    ``rows``: by key, what the metadata say of each of ``refs``, for ``read`` to find in the probe.
    ``data_files``: of each of ``refs``, None where the file is absent. ``filmed``: whether any video of a camera is
    there; a camera without any is left out with a note (a set without its videos still has states and actions).
    """
    absent = [camera for camera in info.cameras if not filmed.get(camera.name)]
    lies = [
        Defect("camera_absent", f"{camera.source}: none of its videos is there; read without this camera")
        for camera in absent
    ]
    features: Sequence[Feature] = [feature for feature in info.features if feature not in absent]
    schema = _first_schema(source, data_files)
    features, wrong = file_types(schema, features)
    texts, taken = text_features(schema, features, changing, source.exists(SUBTASKS))
    present = sum(path is not None for path in data_files)
    if info.total_episodes is not None and info.total_episodes != present:
        lies.append(Defect("episodes_absent", f"declares {info.total_episodes} episodes, {present} present"))
    elif present < len(refs):
        lies.append(Defect("episodes_absent", f"lists {len(refs)} episodes, {present} present"))
    steps = sum(ref.n_steps or 0 for ref in refs)
    if info.total_frames is not None and info.total_frames != steps:
        lies.append(Defect("steps_differ", f"declares {info.total_frames} steps, its episodes {steps}"))
    return Probe(
        format=options.name,
        fps=info.fps,
        features=(*features, *texts),
        episodes=tuple(refs),
        embodiment=options.embodiment or info.embodiment,
        control_mode=options.control_mode,
        licence=options.licence or info.licence,
        provenance=options.provenance,
        notes=(*info.notes, *notes, *wrong, *taken),
        defects=tuple(lies),
        context={"places": rows},
    )


def _first_schema(source: Source, data_files: Iterable[str | None]) -> pa.Schema:
    """The schema of the first data file that is one. Raises ``SourceError`` where none is."""
    broken: SourceError | None = None
    for path in dict.fromkeys(path for path in data_files if path is not None):
        try:
            return open_parquet(source, path).schema_arrow
        except SourceError as error:
            broken = broken or error
    raise broken or SourceError(f"{source.uri} has none of the data files that it declares", code="missing_file")


def in_order(
    options: Format,
    keys: Iterable[str],
    find: Callable[[str], Listed | Unreadable],
    read: Callable[[Sequence[Listed]], Iterator[SourceEpisode | Unreadable]],
) -> Iterator[SourceEpisode | Unreadable]:
    """What ``read`` makes of the findable ``keys``, and the unfindable, in the order of ``keys``.

    The task and the operator that ``options`` state win over the source's.
    """
    stated: dict[str, Any] = {"operator": options.operator} if options.operator else {}
    stated |= {"task": options.task, "language": (options.task,)} if options.task else {}
    for found in _in_order(keys, find, read):
        yield replace(found, **stated) if stated and isinstance(found, SourceEpisode) else found


def _in_order(
    keys: Iterable[str],
    find: Callable[[str], Listed | Unreadable],
    read: Callable[[Sequence[Listed]], Iterator[SourceEpisode | Unreadable]],
) -> Iterator[SourceEpisode | Unreadable]:
    run: list[Listed] = []
    for key in keys:
        found = find(key)
        if isinstance(found, Listed):
            run.append(found)
            continue
        yield from read(run)
        yield found
        run = []
    yield from read(run)
