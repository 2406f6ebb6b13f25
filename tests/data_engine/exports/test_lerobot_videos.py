from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_engine.errors import SourceError
from data_engine.exports.lerobot_videos import CameraFiles, Clip, write_camera
from data_engine.video import EncodeSettings, FrameReader, encode
from tests.data_engine.formats.lerobot_sets import image

FPS = 10.0


def frames(start: int, stop: int, size: tuple[int, int] = (64, 80)) -> Iterator[np.ndarray]:
    return (image(number, size) for number in range(start, stop))


def write(tmp_path: Path, clips: list[Clip], fps: float = FPS) -> CameraFiles:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return write_camera(clips, tmp_path / "out", fps, 1000, 1 << 30, 4, tmp_path / "scratch")


def shown(tmp_path: Path, written: CameraFiles, clips: list[Clip], fps: float = FPS) -> list[list[float]]:
    """The mean brightness of each frame of each clip as written."""
    found = []
    for clip, place in zip(clips, written.places, strict=True):
        with FrameReader(tmp_path / "out" / "chunk-000" / f"file-{place.file:03d}.mp4") as reader:
            found.append(reader.at(place.from_s + np.arange(clip.frames) / fps, 1e-4).mean(axis=(1, 2, 3)).tolist())
    return found


def test_only_clips_off_a_keyframe_are_encoded_again(tmp_path: Path) -> None:
    encode(frames(0, 30), tmp_path / "a.mp4", FPS)
    clips = [
        Clip(tmp_path / "a.mp4", start / FPS, n) for start, n in ((0, 6), (6, 4), (11, 5), (16, 4), (21, 9), (4, 2))
    ]
    written = write(tmp_path, clips)
    assert written.transcoded == dict.fromkeys((2, 4), "it does not start on a keyframe")
    assert {place.file for place in written.places} == {0}
    for clip, brightness in zip(clips, shown(tmp_path, written, clips), strict=True):
        first = round(clip.start_s * FPS)
        expected = [image(number).mean() for number in range(first, first + clip.frames)]
        np.testing.assert_allclose(brightness, expected, atol=4)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_camera_of_another_rate_is_put_on_the_grid(tmp_path: Path) -> None:
    encode(frames(0, 30), tmp_path / "fast.mp4", 30.0)
    clips = [Clip(tmp_path / "fast.mp4", 0.0, 10)]
    written = write(tmp_path, clips)
    assert written.transcoded == {0: "its frames are not one a step at 10 frames a second"}
    np.testing.assert_allclose(
        shown(tmp_path, written, clips)[0], [image(3 * number).mean() for number in range(10)], atol=4
    )


def test_unlike_streams_go_to_files_of_their_own(tmp_path: Path) -> None:
    encode(frames(0, 4), tmp_path / "a.mp4", FPS)
    encode(frames(4, 8), tmp_path / "b.mp4", FPS, EncodeSettings(codec="libx264"))
    encode(frames(8, 12), tmp_path / "c.mp4", FPS)
    clips = [Clip(tmp_path / name, 0.0, 4) for name in ("a.mp4", "b.mp4", "c.mp4")]
    written = write(tmp_path, clips)
    assert [place.file for place in written.places] == [0, 1, 0]
    flat = np.concatenate(shown(tmp_path, written, clips))
    np.testing.assert_allclose(flat, [image(number).mean() for number in range(12)], atol=4)


def test_a_clip_without_its_frames_is_refused(tmp_path: Path) -> None:
    encode(frames(0, 4), tmp_path / "a.mp4", FPS)
    with pytest.raises(SourceError, match=r"a\.mp4 has no frame near 0\.400 s"):
        write(tmp_path, [Clip(tmp_path / "a.mp4", 0.0, 5)])
