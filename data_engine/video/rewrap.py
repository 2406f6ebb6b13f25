"""Video of any readable container as MP4, which is what a lake keeps: its packets untouched, or encoded once."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from data_engine.errors import SourceError
from data_engine.video.copy import copy_spans, transcode_span
from data_engine.video.encode import EncodeSettings
from data_engine.video.reader import FrameReader
from data_engine.video.track import container_of

__all__ = ["Rewrapped", "as_mp4", "is_mp4"]

_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class Rewrapped:
    """How a video got into its MP4: a frame shown at t is shown at t + ``shift_s`` there.

    ``settings`` are those it was encoded with, None where its packets were copied.
    """

    shift_s: float
    settings: EncodeSettings | None = None


def is_mp4(path: str | os.PathLike[str]) -> bool:
    """Whether a file is MP4 or MOV by its first bytes. Raises ``SourceError`` for one that is no video container."""
    return container_of(os.fspath(path)) == "mov"


def as_mp4(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Rewrapped:
    """Write the frames of ``path`` into an MP4 at ``out``, each at its own time less the first one's.

    Packets are copied as they are; only what MP4 cannot hold (VP8, say) is decoded and encoded, losing what the encoder
    loses. Raises ``SourceError`` where the file is no readable video.
    """
    with FrameReader(path) as reader:
        times = reader.times
    first, settings = float(times[0]), None
    try:
        copy_spans([(path, first, None)], out)
    except SourceError as error:
        if error.code != "cannot_copy":
            raise
        settings = transcode_span(path, first, None, out).settings
    with FrameReader(out) as reader:
        kept = reader.times
    tolerance = _ROUNDING_S if settings is None else 1e-4
    if len(kept) != len(times) or np.abs((kept - kept[0]) - (times - first)).max() > tolerance:
        os.unlink(out)
        raise SourceError(f"{path}: {len(times)} frames went into MP4 and {len(kept)} came out", code="lost_frames")
    return Rewrapped(float(kept[0]) - first, settings)
