"""The frames of a mixture's episodes, step by step, for dialects that hold pictures and not videos."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.arrays import to_array
from data_engine.cache import LRU
from data_engine.errors import RequestError
from data_engine.exports.columns import camera_name
from data_engine.mixture import Mixture
from data_engine.model import TIMESTAMP, Feature
from data_engine.video import FrameReader

__all__ = ["Pictures", "encoded", "video_of"]

_CHUNK = 32  # frames decoded at once
_OPEN = 8


def video_of(row: Mapping[str, Any], camera: str) -> dict[str, Any]:
    """The video of ``camera`` in a row of the mixture. Raises ``RequestError`` where the episode lacks it."""
    video = next((video for video in row["videos"] or () if video["camera"] == camera), None)
    if video is None:
        raise RequestError(
            f"episode {row['source_key']!r} of {row['dataset']!r} has no camera {camera!r}",
            code="missing_camera",
            fix="leave the camera out with the exporter's columns, or the episode with a where",
        )
    return dict(video)


def encoded(frame: np.ndarray, form: str, quality: int = 95) -> bytes:
    """``frame`` uint8 [h, w, 3] as ``jpeg`` of ``quality``, without subsampled colours, or as ``png``, without loss."""
    from PIL import Image

    out = io.BytesIO()
    options = {"quality": quality, "subsampling": 0} if form == "jpeg" else {"compress_level": 4}
    Image.fromarray(frame).save(out, form.upper(), **options)
    return out.getvalue()


class Pictures:
    """Decoded frames of a mixture's videos, as the loader decodes them."""

    def __init__(self, mixture: Mixture) -> None:
        self._readers: LRU[str, FrameReader] = LRU(_OPEN, lambda blob: FrameReader(mixture.local(blob)))

    def size(self, row: Mapping[str, Any], camera: Feature) -> tuple[int, int]:
        """(height, width) of the frames."""
        info = self._readers(video_of(row, camera_name(camera))["blob"]).info
        return info.height, info.width

    def frames(self, row: Mapping[str, Any], steps: pa.Table, camera: Feature) -> Iterator[np.ndarray]:
        """uint8 [h, w, 3], one a step: the frame nearest the step's time, or the camera's own time of it.

        Raises ``SourceError`` where there is none within half a frame, ``RequestError`` without such a camera.
        """
        name = camera_name(camera)
        video = video_of(row, name)
        clock = f"frame_time.{name}" if f"frame_time.{name}" in steps.column_names else TIMESTAMP
        times = to_array(steps[clock], clock) + video["start_s"]
        reader = self._readers(video["blob"])
        for at in range(0, len(times), _CHUNK):
            yield from reader.at(times[at : at + _CHUNK])
