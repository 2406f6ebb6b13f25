"""The cameras of one shard of an ingest: encoded video kept byte for byte, raw frames encoded once, each stream probed.

A container other than MP4 gives its packets to one. By reference, an MP4 stays where it is, and the lake keeps where.

What a stream is, what was declared of it, and the hashes of its first and last decoded frames go into the receipt.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from data_engine.canonical import digest
from data_engine.defects import Defect, of_frames
from data_engine.errors import SourceError
from data_engine.formats import EncodedVideo, RawFrames, Source
from data_engine.formats.files import member
from data_engine.references import VIDEOS, Reference, as_evidence
from data_engine.video import EncodeSettings, FrameReader, Rewrapped, as_mp4, encode, encode_timed, is_mp4
from data_engine.video.recut import recut
from storage.blobs import file_sha256
from storage.lake import Lake

__all__ = ["AS_IT_IS", "Cameras"]

AS_IT_IS = ("byte for byte", "by reference")  # how a video was kept whose blob is named by the source file's hash

_TICKS = 90_000  # a second, of videos whose frames come unevenly
_LOOKS = 5  # frames of an episode looked at for a black or frozen camera
_OPEN = 8  # video files held open


class Cameras:
    """Stores the cameras of one episode after the other.

    ``streams``: the evidence of each video file, by its path in the source (``<episode>/<camera>`` for frames encoded
    here): ``used`` counts the frames that episodes of this shard show. ``apart``: files that show removed episodes as
    well; of them only the spans of the others come in. ``by_reference``: files that can be read where they are stay
    there.
    """

    def __init__(
        self, lake: Lake, source: Source, fps: float, apart: Collection[str] = (), *, by_reference: bool = False
    ) -> None:
        self.lake, self.source, self.fps, self.apart = lake, source, fps, frozenset(apart)
        self.by_reference = by_reference
        self.streams: dict[str, dict[str, Any]] = {}
        self._kept: dict[str, FrameReader] = {}
        self._shift: dict[str, float] = {}  # seconds from a time in the source's file to the same in the lake's
        self._folder = tempfile.TemporaryDirectory(prefix="data-engine-")

    def __enter__(self) -> Cameras:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._kept.values():
            reader.close()
        self._folder.cleanup()

    def store(
        self, key: str, cameras: Mapping[str, RawFrames | EncodedVideo], times: np.ndarray, moving: bool
    ) -> tuple[list[dict[str, Any]], dict[str, str], list[Defect]]:
        """The ``videos`` of episode ``key``'s row, a digest of each camera's frames, and what was seen wrong.

        ``times``: float64 [steps] seconds. Raises ``SourceError`` where a camera lacks a frame for a step.
        """
        videos, digests, defects = [], {}, []
        for camera in sorted(cameras):
            given = cameras[camera]
            if isinstance(given, RawFrames):
                video, digests[camera], reader = self._encode(f"{key}/{camera}", camera, given, times)
            else:
                given = self._held(camera, given)
                video, digests[camera], reader = self._keep(camera, given, times)
                defects += _longer(camera, video["frames"], len(times))
                defects += self._lies(camera, given, reader)
            looked = times[np.unique(np.linspace(0, len(times) - 1, _LOOKS).round().astype(int))]
            seen = of_frames(_nearest(reader, video["start_s"] + looked), moving)
            defects += [Defect(seen, f"camera {camera!r}")] if seen else []
            if isinstance(given, EncodedVideo) and self.streams[given.path]["blob"] is None:
                video = self._cut_out(video, reader)
            videos.append({"camera": camera, **video})
            if isinstance(given, RawFrames):
                reader.close()
        return videos, digests, defects

    def _encode(
        self, stream: str, camera: str, raw: RawFrames, times: np.ndarray
    ) -> tuple[dict[str, Any], str, FrameReader]:
        settings = EncodeSettings()
        ends = _Ends()
        source_digest, count = ends.digest(raw.frames())
        if count != len(times):
            raise SourceError(f"camera {camera!r} has {count} frames for {len(times)} steps", code="frame_count")
        even = np.abs(times - np.arange(count) / self.fps).max() < 0.25 / self.fps
        clock = str(self.fps) if even else times.tobytes()  # frames of an uneven clock keep their own times
        ledger = "encoded-" + digest(source_digest, settings.as_dict(), clock)
        done = self.lake.done(ledger)
        if done is None or not self.lake.exists(done["blob"]):
            path = os.path.join(self._folder.name, "frames.mp4")
            if even:
                encoded = encode(raw.frames(), path, self.fps, settings)
            else:
                ticks = np.round((times - times[0]) * _TICKS).astype(np.int64).tolist()
                rate = Fraction(self.fps).limit_denominator(1001)
                timed = zip(raw.frames(), ticks, strict=True)
                encoded = encode_timed(timed, path, rate, Fraction(1, _TICKS), settings)
            info = encoded.info
            done = {
                "blob": self.lake.put_video(path), "start_s": 0.0 if even else -float(times[0]),
                "end_s": info.duration_s, "codec": info.codec, "width": info.width, "height": info.height,
                "fps": info.fps, "frames": info.frames, "settings": encoded.settings.as_dict(),
            }  # fmt: skip
            os.unlink(path)
            self.lake.mark_done(ledger, done)
        reader = FrameReader(self.lake.local(done["blob"]))
        first, last = reader.at(reader.times[[0, -1]])
        self.streams[stream] = {
            **_evidence(camera, reader, done["blob"]),
            "kept": "encoded once",
            "settings": done["settings"],
            "source_frames": count,
            "source_first": ends.first,
            "source_last": ends.last,
            "psnr_db": round(min(_psnr(first, ends.first_frame), _psnr(last, ends.last_frame)), 2),
            "used": count,
        }
        return {name: value for name, value in done.items() if name != "settings"}, source_digest, reader

    def _keep(self, camera: str, given: EncodedVideo, times: np.ndarray) -> tuple[dict[str, Any], str, FrameReader]:
        reader = self._kept[given.path]
        info, stream = reader.info, self.streams[given.path]
        end = given.end_s if given.end_s is not None else float(reader.times[-1]) + 1 / info.fps
        count = reader.count(given.start_s, end)
        wanted = given.start_s + times
        nearest = reader.times[
            np.clip(np.searchsorted(reader.times, wanted - 0.5 / info.fps), 0, len(reader.times) - 1)
        ]
        off = np.abs(nearest - wanted) > 0.5 / info.fps + 1e-4
        if off.any():
            raise SourceError(
                f"camera {camera!r} has no frame for step {int(np.flatnonzero(off)[0])} "
                f"({count} frames for {len(times)} steps)",
                code="frame_missing",
            )
        stream["used"] += count
        video = {
            "blob": stream["blob"], "start_s": float(given.start_s), "end_s": float(end), "codec": info.codec,
            "width": info.width, "height": info.height, "fps": info.fps, "frames": count,
        }  # fmt: skip
        return video, reader.digest(given.start_s, end), reader

    def _cut_out(self, video: dict[str, Any], reader: FrameReader) -> dict[str, Any]:
        """``video`` with a blob that holds its span of the file and nothing else."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            (kept,) = recut(reader.path, [(video["start_s"], video["end_s"])], folder)
            blob, info = self.lake.put_video(kept.path), kept.info
        return {**video, "blob": blob, "start_s": kept.start_s, "end_s": kept.end_s, "codec": info.codec}

    def _held(self, camera: str, given: EncodedVideo) -> EncodedVideo:
        """``given`` with its video in the lake and open, its span in the times of the lake's file."""
        path = given.path
        if path not in self._kept:
            if len(self._kept) >= _OPEN:
                self._kept.pop(next(iter(self._kept))).close()
            local, moved = given.local or self._local_copy(path), None
            if not is_mp4(local):
                wrapped = os.path.join(self._folder.name, f"wrapped-{digest(path, length=16)}.mp4")
                moved, local = as_mp4(local, wrapped), wrapped
            reader = self._kept[path] = FrameReader(local)
            if path not in self.streams:
                blob, kept = self._stored(path, local, moved)
                self.streams[path] = {**_evidence(camera, reader, blob), **kept, "used": 0}
                self._shift[path] = moved.shift_s if moved else 0.0
            if moved and path not in self.apart:
                os.unlink(local)  # the reader has it mapped
        shift = self._shift[path]
        end = None if given.end_s is None else given.end_s + shift
        return replace(given, start_s=given.start_s + shift, end_s=end)

    def _stored(self, path: str, local: str, moved: Rewrapped | None) -> tuple[str | None, dict[str, Any]]:
        """The blob of a video of the source, and how it was kept; no blob for one that is still to be cut."""
        reference = self._referable(path, local) if self.by_reference and moved is None else None
        if reference is not None:
            sha256 = file_sha256(local)
            blob = f"{VIDEOS}/{sha256}.mp4"
            if self.lake.size(blob) is None:
                self.lake.put_reference(blob, reference)
                return blob, {"kept": "by reference", **as_evidence(reference), "sha256": sha256}
        if path in self.apart:
            return None, {"kept": "without the removed episodes"}
        return self.lake.put_video(local), _kept(moved)

    def _referable(self, path: str, local: str) -> Reference | None:
        """Where a video lies; None where it is no file of its own in the source (a member of an archive)."""
        file = member(self.source, path)
        try:
            size, mark = file.stamp()
        except FileNotFoundError:
            return None
        return Reference(uri=file.uri, bytes=size, stamp=mark) if size == os.path.getsize(local) else None

    def _local_copy(self, path: str) -> str:
        if self.source.is_local:
            return self.source.path(path)
        local = os.path.join(self._folder.name, digest(path, length=16) + os.path.splitext(path)[1])
        if not os.path.exists(local):
            self.source.fs.get_file(self.source.path(path), local)
        return local

    def _lies(self, camera: str, given: EncodedVideo, reader: FrameReader) -> list[Defect]:
        """What the source declares of a stream and the file does not hold; said in the stream's evidence too."""
        info, lies = reader.info, {}
        for key, declared in given.declared.items():
            probed = getattr(info, key, None)
            if declared is None or probed is None:
                continue
            same = abs(declared - probed) <= 1e-3 * abs(probed) if isinstance(probed, float) else declared == probed
            if not same:
                lies[key] = {"declared": declared, "probed": probed}
        end = float(reader.times[-1]) + 1 / info.fps
        if given.end_s is not None and given.end_s > end + 1 / info.fps:
            lies["end_s"] = {"declared": given.end_s, "probed": end}
        if lies:
            self.streams[given.path]["lies"] = {**self.streams[given.path].get("lies", {}), **lies}
        return [
            Defect(
                "declared_differs", f"camera {camera!r}: declared {key} {lie['declared']}, in the file {lie['probed']}"
            )
            for key, lie in lies.items()
        ]


class _Ends:
    """Digest of a run of frames, and its first and last frame with their hashes."""

    first = last = ""
    first_frame = last_frame = np.empty(0)

    def digest(self, frames: Iterator[np.ndarray]) -> tuple[str, int]:
        """(sha256 over the frames as :func:`data_engine.video.frames_digest` has it, their number)."""
        from data_engine.video import frames_digest

        found = frames_digest(self._watched(frames))
        if found[1]:
            self.first, self.last = _sha256(self.first_frame), _sha256(self.last_frame)
        return found

    def _watched(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for i, frame in enumerate(frames):
            if i == 0:
                self.first_frame = np.array(frame)
            self.last_frame = frame
            yield frame


def _evidence(camera: str, reader: FrameReader, blob: str | None) -> dict[str, Any]:
    info = reader.info
    first, last = (_sha256(reader.at([time])[0]) for time in reader.times[[0, -1]])
    return {
        "camera": camera, "blob": blob, "bytes": os.path.getsize(reader.path), "codec": info.codec,
        "pix_fmt": info.pix_fmt, "width": info.width, "height": info.height, "fps": info.fps, "frames": info.frames,
        "duration_s": info.duration_s, "first": first, "last": last,
    }  # fmt: skip


def _kept(moved: Rewrapped | None) -> dict[str, Any]:
    if moved is None:
        return {"kept": "byte for byte"}
    if moved.settings is None:
        return {"kept": "packets copied into MP4"}
    return {"kept": "encoded once, as MP4 cannot hold it", "settings": moved.settings.as_dict()}


def _longer(camera: str, frames: int, steps: int) -> list[Defect]:
    return [Defect("video_longer", f"camera {camera!r} holds frames of no step")] if frames > steps else []


def _nearest(reader: FrameReader, times: np.ndarray) -> np.ndarray:
    return reader.at(times, tolerance_s=1 / reader.info.fps)


def _sha256(frame: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(frame).data).hexdigest()


def _psnr(decoded: np.ndarray, source: np.ndarray) -> float:
    """Peak signal to noise in dB, at most 99 (equal frames)."""
    error = float(np.mean((decoded.astype(np.float64) - source) ** 2))
    return min(99.0, 10 * np.log10(255**2 / error)) if error else 99.0
