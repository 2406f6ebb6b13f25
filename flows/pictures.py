"""Pictures for a model: frames of the lake's videos, shrunk and coded as they go over the wire."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import polars as pl

from data_engine.asking import Picture
from data_engine.cache import LRU
from data_engine.endpoint import Endpoint
from data_engine.errors import SourceError
from data_engine.model import TIMESTAMP
from data_engine.scoring import EpisodeBatch
from storage.lake import Lake

__all__ = ["Pictures"]

_OPEN_EPISODES = 32
_KEPT = 256  # coded pictures: pairs share them


@dataclass(frozen=True)
class _Episode:
    batch: EpisodeBatch
    lock: threading.Lock = field(default_factory=threading.Lock)


class Pictures:
    """Draws pictures of ``episodes`` for ``endpoint``. Threads may share it."""

    def __init__(self, lake: Lake, episodes: pl.DataFrame, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lake, self._lock = lake, threading.Lock()
        self._rows = episodes.unique("episode_id", maintain_order=True)
        self._place = {name: row for row, name in enumerate(self._rows["episode_id"])}
        self._episodes: LRU[str, _Episode] = LRU(_OPEN_EPISODES, self._open)
        self._urls = lru_cache(_KEPT)(self._draw)  # which threads may share, as the other is not

    def url(self, picture: Picture) -> str:
        """``picture`` as a ``data:`` URL, JPEG or PNG. Raises ``SourceError`` where there is no such frame."""
        return self._urls(picture)

    def frame(self, picture: Picture) -> np.ndarray:
        """``picture`` as it was recorded, uint8 [h, w, 3]. Raises ``SourceError`` where there is no such frame."""
        with self._lock:
            episode = self._episodes(picture.episode_id)
        batch = episode.batch
        if batch.content_hashes[0] != picture.content_hash:
            raise SourceError(f"episode {picture.episode_id} is another recording by now", code="changed")
        if batch.frames is None or picture.camera not in batch.dataset.cameras:
            raise SourceError(f"episode {picture.episode_id} has no camera {picture.camera!r}", code="no_camera")
        clock = f"frame_time.{picture.camera}"
        times = batch.array(clock if clock in batch.steps.column_names else TIMESTAMP)
        time = times[picture.step, 0] if times is not None and picture.step < len(times) else np.nan
        time = float(time) if np.isfinite(time) else picture.step / batch.dataset.fps
        with episode.lock:
            return batch.frames(0, picture.camera, [time])[0]

    def _open(self, episode_id: str) -> _Episode:
        if episode_id not in self._place:
            raise SourceError(f"episode {episode_id} is not in the lake", code="unknown_episode")
        row = self._rows.slice(self._place[episode_id], 1)
        cameras = [video["camera"] for video in row["videos"].to_list()[0] or ()]
        columns = [TIMESTAMP, *(f"frame_time.{camera}" for camera in cameras)]
        return _Episode(next(iter(self._lake.batches(row, columns=columns))))

    def _draw(self, picture: Picture) -> str:
        from PIL import Image

        image = Image.fromarray(self.frame(picture))
        longest = max(image.size)
        if longest > self.endpoint.side:
            small = (max(round(n * self.endpoint.side / longest), 1) for n in image.size)
            image = image.resize((next(small), next(small)), Image.Resampling.BICUBIC)
        sink = io.BytesIO()
        if self.endpoint.quality is None:
            image.save(sink, "PNG")
        else:
            image.save(sink, "JPEG", quality=self.endpoint.quality)
        kind = "png" if self.endpoint.quality is None else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(sink.getvalue()).decode()}"
