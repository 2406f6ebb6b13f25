"""Spans of video moved between files as they are coded; re-encoded only where that cannot be."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from data_engine.errors import RequestError, SourceError
from data_engine.video.encode import Encoded, EncodeSettings, encode_timed
from data_engine.video.reader import FrameReader
from data_engine.video.track import Track, open_container

__all__ = ["can_copy", "copy_spans", "stream_key", "transcode_span"]

Span = tuple[str | os.PathLike[str], float, float | None]

_TICK = Fraction(1, 90_000)  # seconds; whole for 24, 25, 29.97, 30, 50, 60 frames a second
_CHUNK = 32  # frames decoded at once
_DEFAULT = EncodeSettings()


def stream_key(path: str | os.PathLike[str]) -> str:
    """What two files must share for their packets to lie in one: codec, size, pixel format, rate, configuration.

    64 hex digits. Raises ``SourceError`` where ``path`` is no decodable video.
    """
    track = Track(path)
    track.close()
    return _key(track)


def can_copy(spans: Sequence[Span]) -> bool:
    """Whether :func:`copy_spans` would take ``spans``. Raises ``SourceError`` for a file that is no decodable video."""
    try:
        for _ in _packets(spans):
            pass
    except _CannotCopy:
        return False
    return True


def copy_spans(spans: Sequence[Span], out: str | os.PathLike[str]) -> list[tuple[float, float]]:
    """Copy the coded packets of ``spans`` (path, start_s, end_s or None for the file's end), in order, into one MP4.

    Returns each span's (from_s, to_s) in ``out``: a frame shown at t in the source is shown at from_s + (t - start_s).
    Spans neither overlap nor touch closer than a frame. The bytes depend on the spans alone; nothing is left at ``out``
    on failure. Raises ``SourceError`` where a span is empty, does not start on a keyframe or needs packets outside it,
    and where codec, size, pixel format, rate or configuration differ (:func:`stream_key`).
    """
    import av

    out, places = Path(out), []
    _keep_sources(out, [path for path, _, _ in spans])
    try:
        with av.open(f"file:{out}", "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream, cursor, least_dts = None, 0.0, -(2**63)
            for track, start_s, end_s, packets in _packets(spans):
                track.check()
                if stream is None:
                    with open_container(track.path) as source:
                        stream = container.add_stream_from_template(source.streams.best("video"), opaque=True)
                    stream.time_base = track.time_base
                tick = float(track.time_base)
                pts = track.pts[packets]
                dts = np.sort(pts) - max(0, int((np.sort(pts) - pts).max()))  # ascending and never after pts
                after_last = math.ceil((cursor - start_s) / tick - 1e-6)
                shift = max(after_last, -int(pts.min()), least_dts - int(dts[0]))
                frame = max(1, round(1 / (track.info.fps * tick)))
                for i, decoded in zip(packets.tolist(), (dts + shift).tolist(), strict=True):
                    packet = track.packet(i)
                    packet.pts, packet.dts, packet.duration = packet.pts + shift, decoded, frame
                    packet.time_base, packet.is_keyframe = track.time_base, bool(track.key[i])
                    packet.stream = stream
                    container.mux(packet)
                from_s = start_s + shift * tick
                end = (int(pts.max()) + shift + frame) * tick
                to_s = end if end_s is None else from_s + (end_s - start_s)
                places.append((from_s, to_s))
                cursor, least_dts = max(end, to_s), int(dts[-1]) + shift + 1
    except BaseException as error:
        out.unlink(missing_ok=True)
        if isinstance(error, av.FFmpegError | ValueError):
            raise SourceError(f"{out.name}: the packets do not go into an MP4: {error}", code="cannot_copy") from error
        raise
    return places


def transcode_span(
    path: str | os.PathLike[str],
    start_s: float,
    end_s: float | None,
    out: str | os.PathLike[str],
    settings: EncodeSettings = _DEFAULT,
) -> Encoded:
    """Decode the frames shown in [start_s, end_s) and encode them into an MP4 at ``out``.

    Each keeps its time, less ``start_s``. For spans that cannot be copied. Raises ``SourceError`` for an unreadable
    file, a damaged frame and an empty span.
    """
    _keep_sources(Path(out), [path])
    with FrameReader(path) as reader:
        first = int(np.searchsorted(reader.times, start_s - 0.5 / reader.info.fps, "left"))
        times = reader.times[first : first + reader.count(start_s, end_s)]
        ticks = np.rint((times - start_s) / float(_TICK)).astype(np.int64).clip(0)

        def frames() -> Iterator[tuple[np.ndarray, int]]:
            for at in range(0, len(times), _CHUNK):
                yield from zip(reader.at(times[at : at + _CHUNK]), ticks[at : at + _CHUNK].tolist(), strict=True)

        return encode_timed(frames(), out, Fraction(reader.info.fps).limit_denominator(1001), _TICK, settings)


class _CannotCopy(SourceError):
    default_code = "cannot_copy"


def _keep_sources(out: Path, sources: Sequence[str | os.PathLike[str]]) -> None:
    if out.exists() and any(os.path.exists(path) and out.samefile(path) for path in sources):
        raise RequestError(f"{out} would overwrite its own source", code="bad_path")


def _key(track: Track) -> str:
    info = track.info
    head = f"{info.codec} {info.width} {info.height} {info.pix_fmt} {info.fps:.2f} {track.time_base}".encode()
    return hashlib.sha256(head + b"\0" + track.extradata).hexdigest()


def _packets(spans: Sequence[Span]) -> Iterator[tuple[Track, float, float | None, np.ndarray]]:
    """Each span with its open track and its packets in decode order; one file is open at a time."""
    if not spans:
        raise _CannotCopy("no spans to copy", code="no_frames")
    track, key = None, None
    try:
        for path, start_s, end_s in spans:
            if track is None or track.path != os.path.abspath(os.fspath(path)):
                if track is not None:
                    track.close()
                track = Track(path)
                if key not in (None, _key(track)):
                    raise _CannotCopy(f"{track.path} is coded otherwise than the spans before it")
                key = _key(track)
            packets = np.sort(track.shown[track.span(start_s, end_s)])
            name = f"{track.path} from {start_s:.6g} s" + ("" if end_s is None else f" to {end_s:.6g} s")
            if not len(packets):
                raise _CannotCopy(f"{name} holds no frames", code="no_frames")
            if not track.key[packets[0]] or track.pts[packets[0]] != track.pts[packets].min():
                raise _CannotCopy(f"{name} does not start on a keyframe")
            if packets[-1] - packets[0] + 1 != len(packets):
                raise _CannotCopy(f"{name} cannot be cut out of its file: its frames need others outside it")
            yield track, start_s, end_s, packets
    finally:
        if track is not None:
            track.close()
