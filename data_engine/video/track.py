"""The coded packets of one video file: where each lies, when it is shown, and what the file really is.

A file is demuxed once. After that a packet is a slice of the mapped file, so neither reading a frame nor hashing nor
copying goes through a container's seek again.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
import weakref
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.video.mp4 import Piece

__all__ = ["CannotCopy", "Cut", "Track", "VideoInfo", "container_of", "open_container"]

_MP4_BOXES = {b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_PIXELS = 1 << 26  # of a frame, 8192 x 8192: one colour at any size is a few bytes a frame
_HEADER_ROOM = 256  # bytes between the position a demuxer states and the packet's first byte (a block header)


@dataclass(frozen=True)
class VideoInfo:
    """What a file's own packets say, never what it or its dataset declares.

    ``frames`` are the ones shown; ``fps`` is the rate of the regular intervals between them (of variable-rate video:
    around the median interval); ``duration_s`` spans from the first frame's start to the last one's end.
    """

    codec: str
    width: int
    height: int
    fps: float
    frames: int
    duration_s: float
    pix_fmt: str


def container_of(path: str) -> str:
    """The container that a file's first bytes show: ``mov`` (MP4 and MOV), ``matroska`` (WebM too) or ``avi``.

    Raises ``SourceError`` for a missing file and for any other kind, whatever its name says.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}", code="no_video") from error
    if head[4:8] in _MP4_BOXES:
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    raise SourceError(f"{path} is not an MP4, Matroska or AVI file", code="not_video")


def open_container(path: str) -> Any:
    """``path`` opened by PyAV as the container that its first bytes show, and as nothing else.

    Left to guess, FFmpeg would follow a playlist or a concat script that calls itself .mp4 to other files and hosts.
    Data references of a MOV, which name other files, are not followed. Raises ``SourceError`` as :func:`container_of`.
    """
    import av

    container = container_of(path)
    options = {"protocol_whitelist": "file"}
    if container == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    try:
        return av.open(f"file:{path}", format=container, options=options)
    except (av.FFmpegError, ValueError) as error:
        raise SourceError(f"{path} cannot be opened as {container}: {_reason(error)}", code="bad_video") from error


class CannotCopy(SourceError):
    """Packets that cannot be copied alone, or not into one file."""

    default_code = "cannot_copy"


@dataclass(frozen=True)
class Cut:
    """The packets of a span of seconds of one file, at its own times, in ticks of ``time_base``.

    ``coding``: :attr:`Track.coding`. ``is_plain``: whether they lie in an MP4 file (or MOV) as they are decoded.
    """

    piece: Piece
    start_s: float
    end_s: float | None
    time_base: Fraction
    fps: float
    coding: str
    is_plain: bool


_MOST_INDICES = 256
_SETTLED_NS = 50_000_000  # a file written to just now may be written to again within one tick of its clock
_INDICES: dict[tuple[int, ...], tuple[np.ndarray, ...]] = {}  # of files in the state that they were last opened in


class Track:
    """The index of a file's first video stream. Packets are numbered in decode order.

    ``pts`` int64 [n]: presentation time in ticks of ``time_base`` seconds. ``size`` int64 [n]: bytes. ``key`` bool [n].
    ``shown`` int64 [frames]: the packet of each frame in the order of presentation. ``times`` float64 [frames]: their
    presentation times in seconds. ``decoder`` is a single-threaded codec context.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        with open_container(self.path) as container:
            self._is_mp4 = container_of(self.path) == "mov"
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise SourceError(f"{self.path} holds no decodable video stream", code="not_video")
            self.decoder = stream.codec_context
            self.time_base = Fraction(stream.time_base)
            self.extradata = bytes(self.decoder.extradata or b"")
            self._file = os.open(self.path, os.O_RDONLY)
            self._close = weakref.finalize(self, os.close, self._file)
            self._state = self._now()
            self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
            self._loose: dict[int, bytes] = {}  # packets that do not lie in the file as they are decoded
            shown = self._known_index(container, stream)
            rate = stream.average_rate or stream.guessed_rate
        order = np.argsort(self.pts[shown], kind="stable")
        self.shown = shown[order]
        ticks = self.pts[self.shown]
        if len(ticks) > 1 and not np.diff(ticks).all():
            raise SourceError(f"{self.path} has two frames at one time", code="bad_video")
        self.times = ticks * self.time_base.numerator / self.time_base.denominator
        self.reordered = bool((np.diff(self.pts) < 0).any())
        fps = self._rate(ticks, float(rate or 0))
        self.info = VideoInfo(
            codec=self.decoder.codec.canonical_name,
            width=self.decoder.width,
            height=self.decoder.height,
            fps=fps,
            frames=len(ticks),
            duration_s=float(self.times[-1] - self.times[0]) + 1 / fps,
            pix_fmt=self.decoder.pix_fmt,
        )
        self._prepare_decoder()

    def _index(self, container: Any, stream: Any) -> np.ndarray:
        """Read every packet once; returns the numbers of those whose frames are shown (an edit list hides some)."""
        import av

        if container.format.name == "avi" and self.decoder.has_b_frames:  # FFmpeg would make their times up
            raise SourceError(
                f"{self.path}: AVI keeps no presentation times for reordered frames",
                code="bad_video",
                fix="transcode it, or remux its original stream, to MP4",
            )
        rows: list[tuple[int, int, int, bool, bool]] = []
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.is_corrupt:  # the end marker, or cut off by the end of the file
                    continue
                if packet.has_sidedata("new_extradata"):
                    raise SourceError(f"{self.path} changes its codec configuration midway", code="bad_video")
                pts = packet.dts if packet.pts is None else packet.pts
                if pts is None:
                    raise SourceError(f"{self.path} has packets without a presentation time", code="bad_video")
                data, at = bytes(packet), -1 if packet.pos is None else packet.pos
                if at >= 0 and self._map[at : at + len(data)] != data:
                    at = self._map.find(data, at, at + len(data) + _HEADER_ROOM)
                if at < 0:
                    self._loose[len(rows)] = data
                rows.append((pts, at, len(data), packet.is_keyframe, not packet.is_discard))
        except av.FFmpegError as error:
            raise SourceError(f"{self.path}: {_reason(error)}", code="bad_video") from error
        if not rows or not any(row[-1] for row in rows):
            raise SourceError(f"{self.path} holds no frames", code="bad_video")
        self.pts, self._at, self.size, key, visible = np.array(rows, np.int64).T.copy()
        self.key = key.astype(bool)
        return np.flatnonzero(visible)

    def _known_index(self, container: Any, stream: Any) -> np.ndarray:
        """:meth:`_index`, or what it found when this very file was opened before: it reads every byte."""
        found = os.fstat(self._file)
        version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = _INDICES.get(version)
        if known is not None:
            self.pts, self._at, self.size, self.key, shown = known
            return shown
        shown = self._index(container, stream)
        settled = time.time_ns() - max(found.st_ctime_ns, found.st_mtime_ns) > _SETTLED_NS
        if settled and not self._loose and self._now() == self._state:
            while len(_INDICES) >= _MOST_INDICES:
                _INDICES.pop(next(iter(_INDICES)), None)
            _INDICES[version] = (self.pts, self._at, self.size, self.key, shown)
        return shown

    def _rate(self, ticks: np.ndarray, declared: float) -> float:
        """Frames a second; of a single frame, which has no interval, the container's word."""
        if len(ticks) < 2:
            return declared if declared > 0 else 1.0
        gaps = np.diff(ticks)
        middle = np.sort(gaps)[(len(gaps) - 1) // 2]  # one of the gaps, so that the regular ones are never none
        regular = gaps[(gaps > 0.5 * middle) & (gaps < 1.5 * middle)]
        return float(Fraction(len(regular), int(regular.sum())) / self.time_base)

    def _prepare_decoder(self) -> None:
        from av.codec.context import Flags

        if not self.info.width or not self.info.height or self.info.pix_fmt is None:
            raise SourceError(f"{self.path} has no decodable frames", code="bad_video")
        if self.info.width * self.info.height > _PIXELS:
            size = f"{self.info.width}x{self.info.height}"
            raise SourceError(
                f"{self.path} has frames of {size}, more than {_PIXELS >> 20} megapixels", code="too_large"
            )
        self.decoder.thread_count = 1  # more would decode ahead of the one frame that is asked for
        if not self.reordered:
            self.decoder.flags |= int(Flags.low_delay)

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Raise ``SourceError`` where the file was written to since it was opened; ask before reading packets."""
        if self._now() != self._state:  # what was cut off cannot be read: trying would end the process
            raise SourceError(f"{self.path} was changed while it was being read", code="changed_file")

    def data(self, i: int) -> bytes:
        """The coded bytes of packet ``i``."""
        at = int(self._at[i])
        return self._loose[i] if at < 0 else self._map[at : at + int(self.size[i])]

    def packet(self, i: int) -> Any:
        """Packet ``i`` as a fresh ``av.Packet`` with its presentation time."""
        import av

        packet = av.Packet(int(self.size[i]))  # allocated by FFmpeg with the padding that decoders read into
        packet.update(self.data(i))
        packet.pts = int(self.pts[i])
        return packet

    @property
    def coding(self) -> str:
        """What two files must share for their packets to lie in one: codec, size, pixel format, rate, configuration."""
        info = self.info
        head = f"{info.codec} {info.width} {info.height} {info.pix_fmt} {info.fps:.2f} {self.time_base}".encode()
        return hashlib.sha256(head + b"\0" + self.extradata).hexdigest()

    def cut(self, start_s: float = 0.0, end_s: float | None = None) -> Cut:
        """The packets of the frames shown in [start, end), to be copied.

        Raises ``SourceError`` (``cannot_copy``, ``no_frames``) where there are none or they need others.
        """
        packets = np.sort(self.shown[self.span(start_s, end_s)])
        name = f"{self.path} from {start_s:.6g} s" + ("" if end_s is None else f" to {end_s:.6g} s")
        if not len(packets):
            raise CannotCopy(f"{name} holds no frames", code="no_frames")
        pts, key = self.pts[packets], self.key[packets]
        if not key[0] or pts[0] != pts.min():
            raise CannotCopy(f"{name} does not start on a keyframe")
        if packets[-1] - packets[0] + 1 != len(packets):
            raise CannotCopy(f"{name} cannot be cut out of its file: its frames need others outside it")
        dts = np.sort(pts) - max(0, int((np.sort(pts) - pts).max()))  # ascending and never after pts
        at, size = self._at[packets], self.size[packets]
        plain = self._is_mp4 and bool((at >= 0).all())
        piece = Piece(self.path, self._state, int(packets[0]), at, size, dts, pts, key)
        return Cut(piece, start_s, end_s, self.time_base, self.info.fps, self.coding, plain)

    def span(self, start_s: float = 0.0, end_s: float | None = None) -> slice:
        """The frames, by order of presentation, whose time lies in [start, end), half a frame's rounding forgiven."""
        half = 0.5 / self.info.fps
        first = int(np.searchsorted(self.times, start_s - half, "left"))
        last = len(self.times) if end_s is None else int(np.searchsorted(self.times, end_s - half, "left"))
        return slice(first, max(first, last))

    def close(self) -> None:
        """Give the mapped file back."""
        self._map.close()
        self._close()


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
