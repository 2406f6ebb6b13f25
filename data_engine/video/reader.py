"""Any frame of a video file, as fast as its codec allows."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.video.track import Cut, Track, VideoInfo

__all__ = ["FrameReader"]

_LONG_RUN = 16  # packets: after a run this long, feeding a few more beats losing the decoder's state to a drain
_MOST_DELAY = 32  # packets: twice the deepest reordering that H.264 and HEVC allow
_NO_TICKS = -(2**63)  # before any presentation time
_SLACK_S = 1e-4  # seconds that rounding of timestamps may add to half a frame


class FrameReader:
    """Random access to the frames of one local video file, by presentation time.

    Packets go from the mapped file straight into the decoder, from the keyframe that a frame needs and no earlier;
    every run between keyframes is decoded once a call, so ask for many times at once. Frames are as coded (a rotation
    that the container asks players for is not applied) and equal those of a sequential decode bit for bit.

    Readers are independent: use one a thread. A pickled reader opens its file again.

    ``size``: (height, width) to which frames are scaled (swscale: area means down, bilinear up), as coded by default.

    Raises ``SourceError`` where the file is missing, is no MP4/MOV, Matroska/WebM or AVI, or holds no decodable video.
    """

    def __init__(self, path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> None:
        from av.video.reformatter import VideoReformatter

        self._track = Track(path)
        self._starts = _run_starts(self._track)
        self._borders = (self.times[1:] + self.times[:-1]) / 2  # where the next frame becomes the nearest
        self._to_rgb = VideoReformatter()
        coded = self.info.height, self.info.width
        self.size = size or coded
        self._scaling: dict[str, Any] = {}
        if self.size != coded:
            down = self.size[0] < coded[0] or self.size[1] < coded[1]
            kind = "AREA" if down else "BILINEAR"
            self._scaling = {"height": self.size[0], "width": self.size[1], "interpolation": kind}
        self._run: tuple[int, int, int] | None = (
            None  # first packet fed, next packet to feed, last time emitted (ticks)
        )
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """The file's absolute path."""
        return self._track.path

    @property
    def info(self) -> VideoInfo:
        """What the file's packets say of it."""
        return self._track.info

    @property
    def times(self) -> np.ndarray:
        """float64 [frames]: presentation times in seconds, ascending."""
        return self._track.times

    def at(self, times: Sequence[float] | np.ndarray, tolerance_s: float | None = None) -> np.ndarray:
        """uint8 [n, *size, 3]: RGB frames nearest each of ``times`` (seconds), in any order, repeats allowed.

        Raises ``SourceError`` naming the first time with no frame within ``tolerance_s`` (half a frame unless told),
        for a frame that does not decode, and where the file was written to since it was opened.
        """
        self._track.check()
        packets = self._track.shown[self._nearest(np.asarray(times, np.float64).reshape(-1), tolerance_s)]
        out = np.empty((len(packets), *self.size, 3), np.uint8)
        rows: dict[int, list[int]] = {}
        for row, packet in enumerate(packets.tolist()):
            rows.setdefault(packet, []).append(row)
        runs: dict[int, list[int]] = {}
        for packet in sorted(rows):
            runs.setdefault(int(self._starts[packet]), []).append(packet)
        with self._lock:
            for start, wanted in runs.items():
                self._decode(start, wanted, rows, out)
        return out

    def digest(self, start_s: float = 0.0, end_s: float | None = None) -> str:
        """sha256 in hex over the codec's configuration and the coded packets shown in [start, end), in decode order.

        Other packets of the file do not count, so a file that grew by another episode keeps this one's digest.
        """
        track, info = self._track, self.info
        track.check()
        sha = hashlib.sha256()
        head = f"{info.codec} {info.width} {info.height} {info.pix_fmt}".encode()
        packets = np.sort(track.shown[track.span(start_s, end_s)]).tolist()
        for part in (head, track.extradata, *packets):
            data = track.data(part) if isinstance(part, int) else part
            sha.update(len(data).to_bytes(8, "big"))
            sha.update(data)
        return sha.hexdigest()

    def count(self, start_s: float = 0.0, end_s: float | None = None) -> int:
        """How many frames are shown in [start, end)."""
        span = self._track.span(start_s, end_s)
        return span.stop - span.start

    def cut(self, start_s: float = 0.0, end_s: float | None = None) -> Cut:
        """The packets shown in [start, end), to be copied by :func:`data_engine.video.join_cuts`. Raises as
        :meth:`data_engine.video.track.Track.cut`.
        """
        return self._track.cut(start_s, end_s)

    def close(self) -> None:
        """Give the file back; the reader is of no use afterwards."""
        self._track.close()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[FrameReader], tuple[str, tuple[int, int]]]:
        return FrameReader, (self.path, self.size)

    def _nearest(self, wanted: np.ndarray, tolerance_s: float | None) -> np.ndarray:
        """Index into ``times`` of the frame nearest each wanted time; the earlier of two equally near."""
        times = self.times
        tolerance = 0.5 / self.info.fps + _SLACK_S if tolerance_s is None else tolerance_s
        nearest = np.searchsorted(self._borders, wanted)
        near = np.abs(times[nearest] - wanted) <= tolerance  # False for NaN
        if not near.all():
            raise SourceError(
                f"{self.path} has no frame within {tolerance:.4g} s of {wanted[near.argmin()]:.6g} s; "
                f"its {len(times)} frames span {times[0]:.6g} to {times[-1]:.6g} s",
                code="no_frame",
            )
        return nearest

    def _decode(self, start: int, wanted: list[int], rows: dict[int, list[int]], out: np.ndarray) -> None:
        """Write the frames of packets ``wanted`` (ascending, all decodable from keyframe ``start``) to their rows."""
        import av

        track, decoder = self._track, self._track.decoder
        missing = {int(track.pts[packet]): packet for packet in wanted}
        if self._run and self._run[0] <= start < self._run[1] and self._run[2] < min(missing):
            first, feed, emitted = self._run
        else:
            decoder.flush_buffers()
            first, feed, emitted = start, start, _NO_TICKS
        self._run, last = None, wanted[-1]
        try:
            while missing:
                more = feed <= last or (feed - first >= _LONG_RUN and feed <= last + _MOST_DELAY)
                drained = not more or feed == len(track.pts)
                for frame in decoder.decode(None if drained else track.packet(feed)):
                    emitted = frame.pts
                    packet = missing.pop(emitted, None)
                    if packet is not None:
                        self._write(frame, rows[packet], out)
                if drained:
                    break
                feed += 1
            else:
                self._run = first, feed, emitted
        except av.FFmpegError as error:
            raise self._broken(min(missing), str(error.strerror)) from error
        if missing:
            raise self._broken(min(missing), "the decoder gives no frame")

    def _write(self, frame: Any, rows: list[int], out: np.ndarray) -> None:
        if frame.is_corrupt:
            raise self._broken(frame.pts, "its coded data is damaged")
        if (frame.height, frame.width) != (self.info.height, self.info.width):
            raise self._broken(frame.pts, f"its size changes to {frame.width}x{frame.height}")
        height, width = self.size
        rgb = self._to_rgb.reformat(frame, format="rgb24", threads=1, **self._scaling)
        plane = rgb.planes[0]
        lines = np.asarray(plane).reshape(-1, plane.line_size)[:height, : 3 * width]
        for row in rows:
            out[row] = lines.reshape(height, width, 3)

    def _broken(self, ticks: int, reason: str) -> SourceError:
        time = float(ticks * self._track.time_base)
        return SourceError(f"{self.path}: the frame at {time:.6g} s cannot be decoded: {reason}", code="bad_video")


def _run_starts(track: Track) -> np.ndarray:
    """int64 [packets]: the keyframe to decode each packet from.

    That is the last one before it in decode order that is also shown before it: what follows an open-GOP keyframe but
    is shown before it refers to the frames before the keyframe.
    """
    keys = np.flatnonzero(track.key)
    packets = np.arange(len(track.pts))
    if not len(keys):
        return np.zeros_like(packets)
    which = np.searchsorted(keys, packets, "right") - 1
    while True:
        leading = (which >= 0) & (track.pts[keys[which.clip(0)]] > track.pts)
        if not leading.any():
            return np.where(which < 0, 0, keys[which.clip(0)])
        which = which - leading
