"""Videos of an export or a source, held against the mixture's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_engine.formats import Source
from data_engine.video import FrameReader

__all__ = ["LEAST_DB", "likeness", "local_video"]

LEAST_DB = 30.0
"""Of frames that had to be encoded again: what is below shows something else."""

_SHOWN = 16


def likeness(ours: FrameReader, mine: np.ndarray, theirs: FrameReader, other: np.ndarray) -> float | None:
    """The PSNR in dB (infinite where equal) of up to 16 frames spread over ``mine`` and ``other``: float64 [n] seconds
    of each video. None where they are of unlike sizes. Raises ``SourceError`` where a frame is missing or damaged.
    """
    shown = np.unique(np.linspace(0, len(mine) - 1, min(_SHOWN, len(mine))).round().astype(int))
    left, right = (reader.at(times[shown]).astype(np.float64) for reader, times in ((ours, mine), (theirs, other)))
    if left.shape != right.shape:
        return None
    error = float(np.square(left - right).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def local_video(source: Source, path: str, scratch: Path) -> str:
    """A local file of the video at ``path`` inside ``source``: itself, or a copy in ``scratch``, fetched once."""
    if source.is_local:
        return source.path(path)
    copy = scratch / path.replace("/", "__")
    if not copy.exists():
        source.fs.get_file(source.path(path), str(copy))
    return str(copy)
