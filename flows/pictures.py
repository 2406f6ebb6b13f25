"""Pictures for a model: frames of the lake's videos, shrunk and coded as they go over the wire."""

from __future__ import annotations

import base64
import io
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine.asking import Picture
from data_engine.cache import LRU
from data_engine.endpoint import Endpoint
from data_engine.errors import SourceError
from data_engine.model import TIMESTAMP
from storage.lake import Lake

__all__ = ["Pictures"]

_OPEN_VIDEOS = 64
_STEPS_FILES = 64  # whose clocks are kept: eight bytes a step
_KEPT = 256  # coded pictures: pairs share them


class Pictures:
    """Draws pictures of ``episodes`` for ``endpoint``. Threads may share it."""

    def __init__(self, lake: Lake, episodes: pl.DataFrame, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lake, self._lock = lake, threading.Lock()
        self._rows = episodes.unique("episode_id", maintain_order=True)
        self._place = {name: row for row, name in enumerate(self._rows["episode_id"])}
        self._clocks: LRU[str, dict[str, pa.Table]] = LRU(_STEPS_FILES, self._read)
        self._videos: LRU[str, Any] = LRU(_OPEN_VIDEOS, self._open)
        self._urls = lru_cache(_KEPT)(self._draw)  # which threads may share, as the others are not

    def url(self, picture: Picture) -> str:
        """``picture`` as a ``data:`` URL, JPEG or PNG. Raises ``SourceError`` where there is no such frame."""
        return self._urls(picture)

    def frame(self, picture: Picture) -> np.ndarray:
        """``picture`` as it was recorded, uint8 [h, w, 3]. Raises ``SourceError`` where there is no such frame."""
        if picture.episode_id not in self._place:
            raise SourceError(f"episode {picture.episode_id} is not in the lake", code="unknown_episode")
        row = self._rows.row(self._place[picture.episode_id], named=True)
        if row["content_hash"] != picture.content_hash:
            raise SourceError(f"episode {picture.episode_id} is another recording by now", code="changed")
        video = next((video for video in row["videos"] or () if video["camera"] == picture.camera), None)
        if video is None or not 0 <= picture.step < row["n_steps"]:
            raise SourceError(
                f"episode {picture.episode_id} has no {picture.camera} at {picture.step}", code="no_frame"
            )
        with self._lock:
            clocks = self._clocks(row["steps_file"])[picture.episode_id]
            reader = self._videos(video["blob"])
        clock = f"frame_time.{picture.camera}"
        clock = clock if clock in clocks.column_names else TIMESTAMP
        time = clocks.column(clock)[picture.step].as_py() if clock in clocks.column_names else None
        time = picture.step / row["fps"] if time is None or not np.isfinite(time) else time
        return reader.at([video["start_s"] + time])[0]

    def _read(self, steps_file: str) -> dict[str, pa.Table]:
        """The clocks of every episode of a steps file."""
        rows = self._rows.filter(pl.col("steps_file") == steps_file).sort("row_start")
        cameras = {video["camera"] for videos in rows["videos"].to_list() for video in videos or ()}
        columns = [TIMESTAMP, *(f"frame_time.{camera}" for camera in sorted(cameras))]
        return {row["episode_id"]: table for row, table in self._lake.steps(rows, columns)}

    def _open(self, blob: str) -> Any:
        from data_engine.video import FrameReader

        return FrameReader(self._lake.local(blob))

    def _draw(self, picture: Picture) -> str:
        from PIL import Image

        image = Image.fromarray(self.frame(picture))
        longest = max(image.size)
        if longest > self.endpoint.side:
            width, height = (max(round(n * self.endpoint.side / longest), 1) for n in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        sink = io.BytesIO()
        if self.endpoint.quality is None:
            image.save(sink, "PNG")
        else:
            image.save(sink, "JPEG", quality=self.endpoint.quality)
        kind = "png" if self.endpoint.quality is None else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(sink.getvalue()).decode()}"
