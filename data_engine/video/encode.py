"""Raw frames to video, once: the same frames and settings give the same bytes, run after run.

SVT-AV1's packets do not depend on its threads; x264's do, so it gets one. The container is written without dates and
library versions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from data_engine.errors import DefectError, EngineError, RequestError, SourceError
from data_engine.video.track import Track, VideoInfo

__all__ = ["EncodeSettings", "Encoded", "encode", "encode_timed", "fit_settings", "frames_digest", "priority_kept"]

_SVT_LEAST_SIDE = 64  # pixels; as with odd sides, what smaller it takes depends on its version

_SVT_MOST_FPS = Fraction(240)  # a hint to the encoder only: times are the packets' own


@dataclass(frozen=True)
class EncodeSettings:
    """How frames are encoded. ``codec`` is ``libsvtav1`` or ``libx264``.

    ``crf``: constant quality, lower is better. ``gop``: a keyframe every so many frames; at 2 any frame costs at most
    two decodes. ``preset``: SVT-AV1's speed, 0 to 13, higher is faster; x264 keeps its own. ``pix_fmt``: the chroma.
    """

    codec: str = "libsvtav1"
    crf: int = 30
    gop: int = 2
    preset: int = 8
    pix_fmt: str = "yuv420p"

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Encoded:
    """What was written: the file's own ``info``, its ``frames``, sha256 over the source frames, the ``settings`` used.

    ``source_digest`` covers each frame's shape and bytes in order, so with ``settings`` it identifies the video.
    ``settings`` differ from those asked for only where the encoder cannot take the frame size.
    """

    info: VideoInfo
    source_digest: str
    frames: int
    settings: EncodeSettings


def fit_settings(settings: EncodeSettings, height: int, width: int) -> EncodeSettings:
    """``settings``, or for a size that not every SVT-AV1 takes (odd, or a side under 64), H.264 4:4:4 at crf 18.

    4:4:4 has no chroma blocks to round up, so every pixel is kept at any size; x264 takes it down to 1x1.
    """
    odd = height % 2 or width % 2
    if settings.codec == "libsvtav1" and (odd or min(height, width) < _SVT_LEAST_SIDE):
        return dataclasses.replace(settings, codec="libx264", crf=18, pix_fmt="yuv444p")
    return settings


def encode(
    frames: Iterable[np.ndarray],
    path: str | os.PathLike[str],
    fps: float,
    settings: EncodeSettings = EncodeSettings(),
) -> Encoded:
    """Encode ``frames``, uint8 [height, width, 3] RGB of one size, into an MP4 at ``path``.

    Frame i is shown at i / ``fps`` seconds. Frames are taken one at a time; nothing is left on failure. Raises
    ``SourceError`` for no frames and for a frame of another shape or dtype, ``RequestError`` for settings that the
    encoder refuses.
    """
    if not 0 < fps < 10_000:
        raise RequestError(f"{fps} frames a second is no frame rate", code="bad_fps")
    rate = Fraction(fps).limit_denominator(1001)
    return encode_timed(((frame, i) for i, frame in enumerate(frames)), path, rate, 1 / rate, settings)


def encode_timed(
    frames: Iterable[tuple[np.ndarray, int]],
    path: str | os.PathLike[str],
    rate: Fraction,
    time_base: Fraction,
    settings: EncodeSettings,
) -> Encoded:
    """:func:`encode` with each frame's own presentation time, in ascending ticks of ``time_base`` seconds."""
    import av

    path = Path(path)
    source = iter(frames)
    first = next(source, None)
    if first is None:
        raise SourceError(f"no frames to encode into {path.name}", code="no_frames")
    shape = first[0].shape
    sha, count = hashlib.sha256(), 0
    try:
        _check(first[0], shape, 0)
        settings = fit_settings(settings, *shape[:2])
        with av.open(f"file:{path}", "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = _stream(container, rate, time_base, shape, settings)
            for array, ticks in _chain(first, source):
                _check(array, shape, count)
                data = np.ascontiguousarray(array)
                _digest(sha, data)
                frame = av.VideoFrame.from_ndarray(data, format="rgb24")
                frame.pts, frame.time_base = ticks, time_base
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode(None))
        track = Track(path)
        track.close()
        if track.info.frames != count:
            raise DefectError(f"{path.name} holds {track.info.frames} of {count} encoded frames", code="lost_frames")
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, av.FFmpegError):
            raise EngineError(f"cannot write {path}: {error.strerror}", code="write_failed") from error
        raise
    return Encoded(info=track.info, source_digest=sha.hexdigest(), frames=count, settings=settings)


def frames_digest(frames: Iterable[np.ndarray]) -> tuple[str, int]:
    """What ``Encoded.source_digest`` would be of ``frames``, and how many there are, without encoding them."""
    sha, count = hashlib.sha256(), 0
    for frame in frames:
        _digest(sha, np.ascontiguousarray(frame))
        count += 1
    return sha.hexdigest(), count


def _stream(
    container: Any, rate: Fraction, time_base: Fraction, shape: tuple[int, ...], settings: EncodeSettings
) -> Any:
    import av

    options = {"crf": str(settings.crf), "g": str(settings.gop)}
    if settings.codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes a page to stderr for every file otherwise
        options["preset"] = str(settings.preset)
    elif settings.codec == "libx264":
        options |= {"bf": "0", "threads": "1"}
    else:
        raise RequestError(f"unknown encoder {settings.codec!r}", code="bad_encoding", fix="libsvtav1 or libx264")
    stream = container.add_stream(settings.codec, rate=min(rate, _SVT_MOST_FPS), options=options)
    stream.height, stream.width = shape[:2]
    try:
        stream.pix_fmt = settings.pix_fmt
    except ValueError as error:
        raise RequestError(f"unknown pix_fmt {settings.pix_fmt!r}", code="bad_encoding", fix="yuv420p") from error
    stream.codec_context.time_base = time_base
    try:
        with priority_kept():
            container.start_encoding()
    except av.FFmpegError as error:
        if isinstance(error, OSError):  # the file, not the encoder
            raise
        fix = "odd sides need pix_fmt yuv444p" if shape[0] % 2 or shape[1] % 2 else "check crf, gop, preset and pix_fmt"
        raise RequestError(
            f"{settings.codec} refuses {shape[1]}x{shape[0]} frames with {settings.as_dict()}",
            code="bad_encoding",
            fix=fix,
        ) from error
    return stream


@contextmanager
def priority_kept() -> Iterator[None]:
    """Threads made inside run as the caller does. SVT-AV1, run as root, makes its own threads and the caller's
    real-time for good, ahead of everything else on the machine.
    """
    threads = Path("/proc/self/task")
    if not threads.is_dir():  # not Linux, where it does no such thing
        yield
        return
    before = {}
    for thread in threads.iterdir():
        with suppress(ProcessLookupError):  # threads come and go
            before[thread.name] = os.sched_getscheduler(int(thread.name))
    mine, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in threads.iterdir():
            with suppress(ProcessLookupError):
                number, policy = int(thread.name), before.get(thread.name, mine)
                if os.sched_getscheduler(number) != policy:
                    os.sched_setscheduler(number, policy, parameter)


def _digest(sha: Any, frame: np.ndarray) -> None:
    sha.update(repr(frame.shape).encode())
    sha.update(frame.data)


def _check(frame: np.ndarray, shape: tuple[int, ...], i: int) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise SourceError(
            f"frame {i} is {frame.dtype} {list(frame.shape)}, not uint8 [height, width, 3]", code="bad_frame"
        )
    if frame.shape != shape:
        raise SourceError(f"frame {i} is {list(frame.shape)} after frames of {list(shape)}", code="bad_frame")


def _chain(first: tuple[np.ndarray, int], rest: Iterator[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
    yield first
    yield from rest
