"""Small videos, written on the spot."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_engine.video.encode import priority_kept


def pictures(n: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """uint8 [n, height, width, 3]: smooth moving waves, every frame different."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase = np.arange(n, dtype=np.float32)[:, None, None] * 0.37 + seed
    planes = [np.sin(x / 9 + phase), np.cos(y / 7 - phase), np.sin((x + y) / 13 + 2 * phase)]
    return (127.5 + 120 * np.stack(planes, axis=-1)).astype(np.uint8)


def sequential(path: Path) -> np.ndarray:
    """Every frame as a plain decode from start to end gives it, uint8 [n, height, width, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Writes a video with any codec, options and frame times (ticks of 1/1000 s), straight through PyAV."""

    def make(
        name: str = "video.mp4",
        n: int = 24,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        ticks: list[int] | None = None,
        seed: int = 0,
        **options: str,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10, options=options)
            stream.height, stream.width, stream.pix_fmt = 64, 96, pix_fmt
            if path.suffix != ".avi":  # AVI counts frames and knows no times
                stream.codec_context.time_base = Fraction(1, 1000)
            with priority_kept():
                container.start_encoding()
            for i, picture in enumerate(pictures(n, seed=seed)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.time_base = Fraction(1, 1000)
                frame.pts = ticks[i] if ticks else i * 100
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make
