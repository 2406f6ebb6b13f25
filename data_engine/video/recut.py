"""A video file without what nobody may see any more: the spans that stay, as they are coded where that can be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_engine.errors import DefectError
from data_engine.video.copy import can_copy, copy_spans, transcode_span
from data_engine.video.encode import EncodeSettings
from data_engine.video.reader import FrameReader
from data_engine.video.track import VideoInfo

__all__ = ["Kept", "recut"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class Kept:
    """Where a span of the old file lies now: [``start_s``, ``end_s``) of ``path``, whose own facts are ``info``.

    ``settings`` None: its coded packets are the same, so is its digest; else the frames were encoded again with them.
    """

    path: Path
    start_s: float
    end_s: float
    info: VideoInfo
    settings: EncodeSettings | None


def recut(path: str | os.PathLike[str], spans: Sequence[Interval], folder: str | os.PathLike[str]) -> list[Kept]:
    """Write files into ``folder`` that hold the frames of ``spans`` (start_s, end_s) of ``path`` and no others.

    One :class:`Kept` a span, in order. Spans may overlap or touch; what they share is written once. Packets that can be
    cut out go together into one file as they are; a span that cannot be (it starts between keyframes, or its frames
    need others) into one of its own, encoded again. Equal files and spans give equal bytes. Raises ``SourceError``
    where ``path`` cannot be read, ``DefectError`` where what was written is not what was there.
    """
    with FrameReader(path) as reader:
        half = 0.5 / reader.info.fps
        before = [(reader.count(*span), reader.digest(*span)) for span in spans]
    apart = _merged(sorted(set(spans)), -half)  # what overlaps is one piece, what only touches is not
    copied: list[Interval] = []
    encoded: list[Interval] = []
    for run in _runs(apart, half):
        for piece, whole in _cut(path, run):
            (copied if whole else encoded).append(piece)
    places: dict[Interval, tuple[Path, float, EncodeSettings | None]] = {}
    if copied:
        out = Path(folder) / "copied.mp4"
        for piece, (start_s, _) in zip(copied, copy_spans([(path, *piece) for piece in copied], out), strict=True):
            places[piece] = (out, start_s - piece[0], None)
    for number, piece in enumerate(encoded):
        out = Path(folder) / f"encoded-{number}.mp4"
        places[piece] = (out, -piece[0], transcode_span(path, *piece, out).settings)
    readers = {out: FrameReader(out) for out, _, _ in places.values()}
    try:
        kept = []
        for span, (count, digest) in zip(spans, before, strict=True):
            out, shift, settings = next(
                place for piece, place in places.items() if piece[0] <= span[0] and span[1] <= piece[1]
            )
            now, there = (span[0] + shift, span[1] + shift), readers[out]
            if there.count(*now) != count or (settings is None and there.digest(*now) != digest):
                raise DefectError(f"{path} from {span[0]:.6g} s to {span[1]:.6g} s did not come out the same")
            kept.append(Kept(out, *now, there.info, settings))
        return kept
    finally:
        for there in readers.values():
            there.close()


def _merged(spans: Sequence[Interval], slack: float) -> list[Interval]:
    """Ascending ``spans``, those that lie within ``slack`` seconds of each other as one."""
    merged: list[Interval] = []
    for start, end in spans:
        if merged and start <= merged[-1][1] + slack:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _runs(pieces: Sequence[Interval], slack: float) -> Iterator[list[Interval]]:
    """Ascending ``pieces`` in runs that touch: a piece may start between keyframes and its run still can be copied."""
    run: list[Interval] = []
    for piece in pieces:
        if run and piece[0] > run[-1][1] + slack:
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _cut(path: str | os.PathLike[str], run: Sequence[Interval]) -> Iterator[tuple[Interval, bool]]:
    """``run`` in pieces and whether each can be copied, as few of its first spans encoded again as possible."""
    for at in range(len(run)):
        rest = (run[at][0], run[-1][1])
        if can_copy([(path, *rest)]):
            yield rest, True
            return
        yield run[at], at + 1 < len(run) and can_copy([(path, *run[at])])
