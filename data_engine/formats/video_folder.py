"""Plain videos: a file, or a folder of them, with or without a table beside them. No action, no state: frames alone."""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pyarrow as pa

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EncodedVideo, EpisodeRef, Format, Probe, Source, SourceEpisode, Unreadable
from data_engine.formats.files import below, member
from data_engine.formats.sidecar import SUFFIXES as TABLES
from data_engine.formats.sidecar import Row, find_sidecar, read_sidecar
from data_engine.model import IMAGES, TIMESTAMP, Feature
from data_engine.video import FrameReader, VideoInfo

__all__ = ["SUFFIXES", "VideoFolder", "frames_between", "local_video"]

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_TRIES = 8  # videos opened for one that can be read


class VideoFolder(Format):
    """Videos (MP4, MOV, Matroska, WebM, AVI), each an episode, or several by the times that a sidecar gives.

    One step a frame, at the frame's own time, also where the rate varies. There is no action: it is absent, not zero.
    ``sidecar`` names the csv, json or jsonl table (by default the only one at the top that lists files);
    :func:`~data_engine.formats.sidecar.read_sidecar` says what it may hold. ``camera`` names the one camera. Episode
    keys are the file's path, with ``[start:end]`` seconds where a span of it is meant.
    """

    name: ClassVar[str] = "video_folder"
    generic: ClassVar[bool] = True

    camera: str = "video"
    sidecar: str | None = None

    def probe(self, source: Source) -> Probe | None:
        """See :meth:`Format.probe`. The camera's size and rate are those of the first video that can be read."""
        if source.is_file:
            videos = [source.relative(source.root)] if source.root.lower().endswith(SUFFIXES) else []
        else:
            videos = below(source, SUFFIXES)
        if not videos:
            return None
        sidecar, rows, notes = self._rows(source, videos)
        present = set(videos)
        info = _first_info(source, [row.path for row in rows.values() if row.path in present])
        beside = (sidecar,) if sidecar else ()
        return Probe(
            format=self.name,
            fps=self.fps or info.fps,
            features=(
                Feature(
                    name=IMAGES + self.camera, dtype="video", shape=(info.height, info.width, 3), source=self.camera
                ),
            ),
            episodes=tuple(EpisodeRef(key, None, tuple({row.path} & present) + beside) for key, row in rows.items()),
            embodiment=self.embodiment or "unknown",
            control_mode=self.control_mode or "none",
            licence=self.licence,
            provenance=self.provenance,
            notes=tuple(notes),
            context={"places": rows},
        )

    def _rows(self, source: Source, videos: Sequence[str]) -> tuple[str | None, dict[str, Row], list[str]]:
        """The sidecar's path, episode key -> row, and notes."""
        if source.is_file:
            if self.sidecar:
                raise RequestError("a single video has no sidecar", code="bad_option", fix="name its folder as source")
            return None, {videos[0]: Row(videos[0])}, []
        tables = [path for path in _top(source) if path.lower().endswith(TABLES)]
        sidecar, notes = self.sidecar, list[str]()
        if sidecar is None:
            sidecar, notes = find_sidecar(source, tables, lambda path: _resolved(path, videos) in videos)
        if sidecar is None:
            return None, {path: Row(path) for path in videos}, notes
        if not source.exists(sidecar):
            raise RequestError(f"there is no sidecar {sidecar}", code="no_sidecar", fix="check the option sidecar")
        rows: dict[str, Row] = {}
        for row in read_sidecar(source, sidecar):
            path = _resolved(row.path, videos)
            key = path
            if row.start_s or row.end_s is not None:
                key += f"[{row.start_s:g}:{'' if row.end_s is None else f'{row.end_s:g}'}]"
            if key in rows:
                raise SourceError(f"{sidecar} lists {key} twice", code="duplicate_key")
            rows[key] = Row(path, row.start_s, row.end_s, row.fields, row.attributes)
        listed = {row.path for row in rows.values()}
        others = [path for path in videos if path not in listed]
        if others:
            notes.append(f"{len(others)} videos are not in {sidecar} and are read whole: {others[0]}, ...")
        return sidecar, {**rows, **{path: Row(path) for path in others}}, notes

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """See :meth:`Format.read`. A video is opened once for the episodes of it that come one after another."""
        rows: Mapping[str, Row] = probe.context["places"]
        open_path, reader = None, None
        with tempfile.TemporaryDirectory(prefix="data-engine-") as folder:
            for key in keys:
                row = rows.get(key)
                if row is None:
                    yield Unreadable(key, "unknown_key", "the source has no such episode")
                    continue
                try:
                    if row.path != open_path or reader is None:
                        if reader is not None:
                            reader.close()
                        open_path, reader = row.path, None
                        reader = FrameReader(_fetched(source, row.path, folder))
                    found: SourceEpisode | Unreadable = self._episode(probe, key, row, reader)
                except EngineError as error:
                    found = Unreadable(key, error.code, str(error))
                yield found
            if reader is not None:
                reader.close()

    def _episode(self, probe: Probe, key: str, row: Row, reader: FrameReader) -> SourceEpisode:
        times, end = frames_between(reader, row.start_s, row.end_s)
        info, (height, width, _) = reader.info, probe.features[0].shape
        notes = []
        if (info.height, info.width) != (height, width):
            notes.append(f"{row.path} is {info.width}x{info.height}, the first video {width}x{height}")
        if self.fps is None and abs(info.fps - probe.fps) > 1e-2 * probe.fps:
            notes.append(f"{row.path} runs at {info.fps:.4g} frames a second, the first video at {probe.fps:.4g}")
        if row.end_s is not None and row.end_s > reader.times[-1] + 1.5 / info.fps:
            notes.append(f"{key} ends {row.end_s - reader.times[-1]:.3g} s after the video's last frame")
        stated = {"task": self.task, "operator": self.operator, "provenance": self.provenance}
        return SourceEpisode(
            key=key,
            steps=pa.table({TIMESTAMP: times - times[0]}),
            cameras={self.camera: EncodedVideo(row.path, float(times[0]), end, local=reader.path)},
            attributes=row.attributes,
            notes=tuple(notes),
            **{**row.fields, **{name: value for name, value in stated.items() if value is not None}},
        )


def frames_between(
    reader: FrameReader, start_s: float = 0.0, end_s: float | None = None
) -> tuple[np.ndarray, float | None]:
    """Times of the frames shown from ``start_s`` up to ``end_s``, in seconds of the file, and where the next one is.

    float64 [n], n > 0; the end is None at the file's end. Raises ``SourceError`` where there is no such frame.
    """
    times = reader.times
    first = int(np.searchsorted(times, start_s - 1e-4)) if start_s > 0 else 0
    last = len(times) if end_s is None else int(np.searchsorted(times, end_s - 1e-4))
    if first >= last:
        raise SourceError(
            f"no frame is shown from {start_s:g} to {'the end' if end_s is None else f'{end_s:g}'} s", code="no_frames"
        )
    return times[first:last], float(times[last]) if last < len(times) else None


@contextmanager
def local_video(source: Source, path: str) -> Iterator[str]:
    """The local path of a video of ``source``; one that lies elsewhere is fetched, and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="data-engine-") as folder:
        yield _fetched(source, path, folder)


def _fetched(source: Source, path: str, folder: str) -> str:
    """A local file with the bytes of ``path``: itself, or a copy in ``folder`` that the next one replaces."""
    try:
        found = member(source, path)
        if source.is_local:
            return found.path()
        copy = os.path.join(folder, "fetched" + posixpath.splitext(path)[1])
        if os.path.exists(copy):
            os.unlink(copy)
        source.fs.get_file(found.path(), copy)
    except FileNotFoundError as error:
        raise SourceError(f"{path} is not there", code="missing_video") from error
    return copy


def _first_info(source: Source, paths: Sequence[str]) -> VideoInfo:
    broken: EngineError | None = None
    for path in list(dict.fromkeys(paths))[:_TRIES]:
        try:
            with local_video(source, path) as local, FrameReader(local) as reader:
                return reader.info
        except EngineError as error:
            broken = broken or error
    why = f": {broken}" if broken else ""
    raise SourceError(f"no video of {source.uri} can be read{why}", code="no_episodes")


def _top(source: Source) -> list[str]:
    return sorted(posixpath.basename(entry["name"]) for entry in source.fs.ls(source.root, detail=True))


def _resolved(path: str, videos: Sequence[str]) -> str:
    """``path`` of a sidecar as the source has it: as written, or the one video of that name, with or without suffix."""
    plain = posixpath.normpath(path.replace("\\", "/"))
    if plain in videos:
        return plain
    named = [found for found in videos if found.endswith("/" + plain) or posixpath.splitext(found)[0] == plain]
    return named[0] if len(named) == 1 else plain
