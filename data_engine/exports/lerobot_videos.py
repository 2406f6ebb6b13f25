"""One camera's episodes as a few large mp4 files: packets copied as they are, re-encoded only where they must be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from data_engine.cache import LRU, Cache
from data_engine.canonical import digest
from data_engine.errors import RequestError, SourceError
from data_engine.exports.lerobot_data import TOLERANCE_S
from data_engine.exports.lerobot_stats import image_stats
from data_engine.video import CannotCopy, Cut, EncodeSettings, FrameReader, VideoInfo, encode, join_cuts

__all__ = ["CameraFiles", "Clip", "Place", "write_camera"]

_CHUNK = 32  # frames decoded at once


@dataclass(frozen=True)
class Clip:
    """The frames of one exported episode: ``frames`` of them from ``start_s`` on in the local file ``path``.

    ``sha256``: the file's, where it is known; then what is measured of the frames is kept.
    """

    path: Path
    start_s: float
    frames: int
    sha256: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a clip went: the file's number and the seconds [from_s, to_s) in it."""

    file: int
    from_s: float
    to_s: float


@dataclass(frozen=True)
class CameraFiles:
    """What was written of one camera: ``places`` by clip, ``stats`` [clips, 9, 3] of ``counts`` sampled frames each,
    the clips that were re-encoded with the reason, and the first file's probed ``info``."""

    places: tuple[Place, ...]
    stats: np.ndarray
    counts: tuple[int, ...]
    transcoded: dict[int, str]
    info: VideoInfo


@dataclass
class _File:
    number: int
    bytes: float = 0.0
    members: list[int] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)


def write_camera(
    clips: Sequence[Clip],
    folder: Path,
    fps: float,
    chunk: int,
    max_bytes: int,
    sampled: int,
    scratch: Path,
    cache: Cache | None = None,
) -> CameraFiles:
    """Write ``clips`` into ``folder/chunk-xxx/file-xxx.mp4``, ``chunk`` files a folder, each of about ``max_bytes``.

    A clip is copied packet by packet where its frames lie on the grid of ``fps`` and start on a keyframe, else encoded
    again (into ``scratch`` first). Clips of unlike codec, size or configuration go to files of their own. ``sampled``
    frames a clip make its statistics; ``cache`` keeps those of frames that were copied, as decoding them is most of the
    work where the set was exported before. Raises ``SourceError`` where a clip has not its frames.
    """
    readers: LRU[Path, FrameReader] = LRU(4, FrameReader)
    files: list[_File] = []
    open_files: dict[str, _File] = {}
    transcoded: dict[int, str] = {}
    first: VideoInfo | None = None
    for number, clip in enumerate(clips):
        reader = readers(clip.path)
        found = _cut(clip, reader, fps)
        if isinstance(found, str):
            path = scratch / f"{folder.name}-{number}.mp4"
            encode(_frames(reader, clip, fps), path, fps, EncodeSettings())
            transcoded[number] = found
            reader = FrameReader(path)
            found = reader.cut(0.0, clip.frames / fps)
            reader.close()
        first = first or reader.info
        size = float(found.piece.size.sum())
        file = open_files.get(found.coding)
        if file is None or file.bytes + size > max_bytes:
            file = open_files[found.coding] = _File(len(files))
            files.append(file)
        file.bytes += size
        file.members.append(number)
        file.cuts.append(found)
    kept = _Kept(cache, fps, sampled)
    places: dict[int, Place] = {}
    stats: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for file in files:
        out = folder / f"chunk-{file.number // chunk:03d}" / f"file-{file.number % chunk:03d}.mp4"
        out.parent.mkdir(parents=True, exist_ok=True)
        spans = join_cuts(file.cuts, out)
        written: LRU[Path, FrameReader] = LRU(1, FrameReader)  # opened where something is to be seen
        for number, (from_s, to_s) in zip(file.members, spans, strict=True):
            places[number] = Place(file.number, from_s, to_s)
            clip, n = clips[number], clips[number].frames
            shown = np.unique(np.linspace(0, n - 1, min(sampled, n)).round().astype(int))
            measure = partial(_measured, written, out, from_s + shown / fps)
            stats[number] = measure() if number in transcoded else kept(clip, measure)
            counts[number] = len(shown)
        kept.write()
        for cut in file.cuts:
            if Path(cut.piece.path).parent == scratch:
                Path(cut.piece.path).unlink(missing_ok=True)
    if first is None:
        raise SourceError("there are no clips", code="no_frames")
    every = range(len(clips))
    return CameraFiles(
        tuple(places[i] for i in every),
        np.stack([stats[i] for i in every]),
        tuple(counts[i] for i in every),
        transcoded,
        first,
    )


def _span(clip: Clip, fps: float) -> tuple[Path, float, float]:
    return clip.path, clip.start_s, clip.start_s + clip.frames / fps


def _cut(clip: Clip, reader: FrameReader, fps: float) -> Cut | str:
    """The packets of a clip, or why they cannot be copied. Raises ``SourceError`` where it has not its frames."""
    reason = _off_grid(clip, reader, fps)
    if reason is not None:
        return reason
    try:
        return reader.cut(*_span(clip, fps)[1:])
    except CannotCopy:
        return "it does not start on a keyframe"


def _off_grid(clip: Clip, reader: FrameReader, fps: float) -> str | None:
    """Why a clip's frames are not one a step at ``fps``, or None. Raises ``SourceError`` where it lacks frames."""
    wanted = clip.start_s + np.arange(clip.frames) / fps
    times = reader.times
    nearest = times[np.clip(np.searchsorted(times, wanted - 0.5 / fps), 0, len(times) - 1)]
    off = np.abs(nearest - wanted)
    if off.max() > 0.5 / fps + 1e-6:
        raise SourceError(f"{clip.path.name} has no frame near {wanted[off.argmax()]:.3f} s", code="missing_frame")
    if reader.count(*_span(clip, fps)[1:]) != clip.frames:
        return f"its frames are not one a step at {fps:g} frames a second"
    if off.max() > TOLERANCE_S:
        return f"its frames are off the grid of {fps:g} frames a second"
    return None


def _frames(reader: FrameReader, clip: Clip, fps: float) -> Iterator[np.ndarray]:
    for at in range(0, clip.frames, _CHUNK):
        yield from reader.at(clip.start_s + np.arange(at, min(at + _CHUNK, clip.frames)) / fps, 0.5 / fps + 1e-6)


def _measured(readers: Callable[[Path], FrameReader], path: Path, times: np.ndarray) -> np.ndarray:
    return image_stats([_downsampled(readers(path).at(times, TOLERANCE_S))])


class _Kept:
    """Statistics of copied clips, kept by the file that they lie in as it is now."""

    def __init__(self, cache: Cache | None, fps: float, sampled: int) -> None:
        self._cache, self._settings = cache, [fps, sampled]
        self._known: dict[tuple[str, str], dict[tuple[float, int], np.ndarray]] = {}
        self._grown: set[tuple[str, str]] = set()
        self._names: dict[Path, str] = {}

    def __call__(self, clip: Clip, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """What ``measure`` finds of ``clip``, or found before."""
        if self._cache is None or clip.sha256 is None:
            return measure()
        place = clip.sha256, self._name(clip.path)
        if place not in self._known:
            table = self._cache.kept(*place)
            rows = () if table is None else table
            self._known[place] = {(float(row[0]), int(row[1])): row[2:].reshape(-1, 3) for row in rows}
        known, key = self._known[place], (clip.start_s, clip.frames)
        if key not in known:
            known[key] = measure()
            self._grown.add(place)
        return known[key]

    def write(self) -> None:
        """Keep what was measured since. Without a place to write, nothing is kept."""
        for sha256, name in self._grown:
            rows = [[*key, *stats.ravel()] for key, stats in self._known[sha256, name].items()]
            with contextlib.suppress(RequestError):
                if self._cache is not None:
                    self._cache.keep(sha256, name, np.array(rows))
        self._grown.clear()

    def _name(self, path: Path) -> str:
        if path not in self._names:
            now = path.stat()
            state = [now.st_ino, now.st_size, now.st_mtime_ns, *self._settings]
            self._names[path] = digest("image_stats", state)
        return self._names[path]


def _downsampled(frames: np.ndarray) -> np.ndarray:
    """``frames`` [n, h, w, 3] with every k-th row and column where a side is 300 or more, as LeRobot."""
    step = max(1, max(frames.shape[1:3]) // 150) if max(frames.shape[1:3]) >= 300 else 1
    return frames[:, ::step, ::step]
