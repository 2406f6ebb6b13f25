"""Spans of video moved between files as they are coded; re-encoded only where that cannot be."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from data_engine.errors import RequestError, SourceError
from data_engine.video import mp4
from data_engine.video.encode import Encoded, EncodeSettings, encode_timed
from data_engine.video.reader import FrameReader
from data_engine.video.track import CannotCopy, Cut, Track, open_container

__all__ = ["can_copy", "copy_spans", "join_cuts", "stream_key", "transcode_span"]

Span = tuple[str | os.PathLike[str], float, float | None]

_TICK = Fraction(1, 90_000)  # seconds; whole for 24, 25, 29.97, 30, 50, 60 frames a second
_CHUNK = 32  # frames decoded at once
_DEFAULT = EncodeSettings()


def stream_key(path: str | os.PathLike[str]) -> str:
    """:attr:`data_engine.video.track.Track.coding` of a file. Raises ``SourceError`` where it is no decodable video."""
    track = Track(path)
    track.close()
    return track.coding


def can_copy(spans: Sequence[Span]) -> bool:
    """Whether :func:`copy_spans` would take ``spans``. Raises ``SourceError`` for a file that is no decodable video."""
    try:
        _alike(_cuts(spans))
    except CannotCopy:
        return False
    return True


def copy_spans(spans: Sequence[Span], out: str | os.PathLike[str]) -> list[tuple[float, float]]:
    """Copy the coded packets of ``spans`` (path, start_s, end_s or None for the file's end), in order, into one MP4.

    Returns each span's (from_s, to_s) in ``out``: a frame shown at t in the source is shown at from_s + (t - start_s).
    Spans neither overlap nor touch closer than a frame. The bytes depend on the spans alone; nothing is left at ``out``
    on failure. Of MP4 files it takes as long as their index and a copy of the bytes. Raises ``SourceError`` where a
    span is empty, does not start on a keyframe or needs packets outside it, and where codec, size, pixel format, rate
    or configuration differ (:func:`stream_key`).
    """
    _keep_sources(Path(out), [path for path, _, _ in spans])
    return join_cuts(list(_cuts(spans)), out)


def join_cuts(cuts: Sequence[Cut], out: str | os.PathLike[str]) -> list[tuple[float, float]]:
    """:func:`copy_spans` of spans whose packets are known, so that no file is looked at twice."""
    import av

    _alike(cuts)
    out, places, pieces, frame = Path(out), [], [], 1
    _keep_sources(out, [cut.piece.path for cut in cuts])
    cursor, least_dts = 0.0, -(2**63)
    for cut in cuts:
        pts, dts, tick = cut.piece.pts, cut.piece.dts, float(cut.time_base)
        after_last = math.ceil((cursor - cut.start_s) / tick - 1e-6)
        shift = max(after_last, -int(pts.min()), least_dts - int(dts[0]))
        pieces.append(replace(cut.piece, dts=dts + shift, pts=pts + shift))
        frame = max(1, round(1 / (cut.fps * tick)))
        from_s = cut.start_s + shift * tick
        end = (int(pts.max()) + shift + frame) * tick
        to_s = end if cut.end_s is None else from_s + (cut.end_s - cut.start_s)
        places.append((from_s, to_s))
        cursor, least_dts = max(end, to_s), int(dts[-1]) + shift + 1
    try:
        plain = all(cut.is_plain for cut in cuts) and cuts[0].time_base.numerator == 1
        header = _header(cuts[0], pieces[0]) if plain else b""
        if not (plain and mp4.write(header, pieces, frame, cuts[0].time_base.denominator, out)):
            _mux(cuts, pieces, out)
    except BaseException as error:
        out.unlink(missing_ok=True)
        if isinstance(error, av.FFmpegError | ValueError):
            raise SourceError(f"{out.name}: the packets do not go into an MP4: {error}", code="cannot_copy") from error
        raise
    return places


def _header(cut: Cut, piece: mp4.Piece) -> bytes:
    """An MP4 of the first packet alone."""
    held = io.BytesIO()
    with contextlib.closing(Track(piece.path)) as track, _new(held, track) as (container, stream):
        container.mux(_packet(track, stream, piece, 0, cut.fps))
    return held.getvalue()


def _mux(cuts: Sequence[Cut], pieces: Sequence[mp4.Piece], out: Path) -> None:
    """Write ``pieces`` a packet at a time: those of other containers, and what MP4 rewrites."""
    track: Track | None = None
    with contextlib.ExitStack() as stack:
        container, stream = None, None
        for cut, piece in zip(cuts, pieces, strict=True):
            if track is None or track.path != piece.path:
                track = Track(piece.path)
                stack.callback(track.close)
            if container is None:
                container, stream = stack.enter_context(_new(str(out), track))
            track.check()
            for i in range(len(piece.pts)):
                container.mux(_packet(track, stream, piece, i, cut.fps))


@contextlib.contextmanager
def _new(target: Any, track: Track) -> Iterator[tuple[Any, Any]]:
    """An empty MP4 at ``target``, and its stream, which is coded as ``track`` is."""
    import av

    options = {"fflags": "+bitexact", "write_btrt": "0"}
    with av.open(f"file:{target}" if isinstance(target, str) else target, "w", format="mp4", options=options) as made:
        with open_container(track.path) as source:
            stream = made.add_stream_from_template(source.streams.best("video"), opaque=True)
        stream.time_base = track.time_base
        yield made, stream


def _packet(track: Track, stream: Any, piece: mp4.Piece, i: int, fps: float) -> Any:
    """Packet ``i`` of ``piece``, which lies in ``track``, at the times that ``piece`` says."""
    packet = track.packet(piece.first + i)
    packet.pts, packet.dts = int(piece.pts[i]), int(piece.dts[i])
    packet.duration = max(1, round(1 / (fps * float(track.time_base))))
    packet.time_base, packet.is_keyframe, packet.stream = track.time_base, bool(piece.key[i]), stream
    return packet


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


def _keep_sources(out: Path, sources: Sequence[str | os.PathLike[str]]) -> None:
    if out.exists() and any(os.path.exists(path) and out.samefile(path) for path in sources):
        raise RequestError(f"{out} would overwrite its own source", code="bad_path")


def _cuts(spans: Sequence[Span]) -> Iterator[Cut]:
    """The packets of each span; one file is open at a time."""
    track = None
    try:
        for path, start_s, end_s in spans:
            if track is None or track.path != os.path.abspath(os.fspath(path)):
                if track is not None:
                    track.close()
                track = Track(path)
            yield track.cut(start_s, end_s)
    finally:
        if track is not None:
            track.close()


def _alike(cuts: Iterable[Cut]) -> None:
    """Raise ``CannotCopy`` where packets do not go into one file, or there are none."""
    coding = None
    for cut in cuts:
        if coding not in (None, cut.coding):
            raise CannotCopy(f"{cut.piece.path} is coded otherwise than the spans before it")
        coding = cut.coding
    if coding is None:
        raise CannotCopy("no spans to copy", code="no_frames")
