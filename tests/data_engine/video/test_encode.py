from __future__ import annotations

import hashlib
import itertools
import os

import numpy as np
import pytest

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.video import EncodeSettings, FrameReader, encode, frames_digest


def pictures(n, height=64, width=96):
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase = np.arange(n, dtype=np.float32)[:, None, None] * 0.37
    return (127.5 + 120 * np.stack([np.sin(x / 9 + phase), np.cos(y / 7 - phase), np.sin(x / 13 + phase)], -1)).astype(
        np.uint8
    )


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_frames_come_back_at_their_times(tmp_path):
    frames = pictures(21)
    made = encode(iter(frames), tmp_path / "v.mp4", 30)
    assert (made.frames, made.info.frames, made.info.codec, made.info.fps) == (21, 21, "av1", 30.0)
    assert made.settings == EncodeSettings()
    with FrameReader(tmp_path / "v.mp4") as reader:
        assert np.allclose(reader.times, np.arange(21) / 30, atol=1e-6)
        assert psnr(reader.at(reader.times), frames) > 30
        assert reader._track.key.sum() == 11, "a keyframe every other frame"


@pytest.mark.parametrize("fps", [10, 29.97, 30000 / 1001, 12.5, 0.5, 1000.0])
def test_any_rate(tmp_path, fps):
    made = encode(iter(pictures(9)), tmp_path / "v.mp4", fps, EncodeSettings(preset=12))
    with FrameReader(tmp_path / "v.mp4") as reader:
        assert made.info.fps == pytest.approx(fps, rel=1e-3)
        assert np.abs(reader.times - np.arange(9) / fps).max() < 0.1 / fps


@pytest.mark.parametrize("settings", [EncodeSettings(), EncodeSettings(codec="libx264", crf=20)])
def test_bytes_are_the_same_from_run_to_run_on_any_number_of_cores(tmp_path, settings):
    frames, digests = pictures(40, 128, 160), set()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        for run, allowed in enumerate([cores, {min(cores)}, cores] if cores else [None, None]):
            if allowed:
                os.sched_setaffinity(0, allowed)
            path = tmp_path / f"{run}.mp4"
            encode(iter(frames), path, 30, settings)
            digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    assert len(digests) == 1


def test_the_source_digest_names_the_frames(tmp_path):
    frames = pictures(6)
    one = encode(iter(frames), tmp_path / "a.mp4", 10).source_digest
    assert frames_digest(iter(frames)) == (one, 6)
    assert encode(iter(frames.copy()), tmp_path / "b.mp4", 30, EncodeSettings(crf=50)).source_digest == one
    assert encode(iter(frames[:, ::-1]), tmp_path / "c.mp4", 10).source_digest != one
    assert encode(iter(frames[:5]), tmp_path / "d.mp4", 10).source_digest != one
    assert encode(iter(frames.reshape(6, 96, 64, 3)), tmp_path / "e.mp4", 10).source_digest != one


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (97, 95), (32, 48), (84, 84), (64, 64), (5, 3), (1, 1)])
def test_every_size_keeps_every_pixel(tmp_path, size):
    frames = pictures(6, *size)
    made = encode(iter(frames), tmp_path / "v.mp4", 10)
    plain = min(size) >= 64 and not any(side % 2 for side in size)
    assert made.settings.codec == ("libsvtav1" if plain or size == (84, 84) else "libx264")
    assert (made.info.height, made.info.width) == size
    with FrameReader(tmp_path / "v.mp4") as reader:
        assert psnr(reader.at(reader.times), frames) > 30


def test_wrong_frames_leave_nothing_behind(tmp_path):
    path, good = tmp_path / "v.mp4", pictures(3)
    wrong = {
        "no frames": [],
        "not uint8": [good[0].astype(np.float32)],
        r"not uint8 \[height, width, 3\]": [good[0][..., 0]],
        "frame 3 is": [*good, good[0][:32]],
    }
    for message, frames in wrong.items():
        with pytest.raises(SourceError, match=message):
            encode(iter(frames), path, 10)
        assert not path.exists()

    def failing():
        yield good[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        encode(failing(), path, 10)
    assert not path.exists()


def test_wrong_settings_are_requests(tmp_path):
    path = tmp_path / "v.mp4"
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="frame rate"):
            encode(iter(pictures(2)), path, fps)
    with pytest.raises(RequestError, match="unknown encoder"):
        encode(iter(pictures(2)), path, 10, EncodeSettings(codec="theora"))
    with pytest.raises(RequestError, match="yuv444p"):
        encode(iter(pictures(2, 63, 65)), path, 10, EncodeSettings(codec="libx264"))
    with pytest.raises(RequestError):
        encode(iter(pictures(2)), path, 10, EncodeSettings(pix_fmt="nonsense"))
    assert not path.exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(EngineError, match="No such file"):
        encode(iter(pictures(2)), tmp_path / "none" / "v.mp4", 10)


def test_frames_are_taken_one_at_a_time(tmp_path):
    taken = itertools.count()
    frames = (frame for frame in pictures(12) if next(taken) >= 0)
    assert encode(frames, tmp_path / "v.mp4", 10).frames == 12


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="the encoder changes priorities on Linux only")
def test_no_thread_gets_another_priority(tmp_path):
    seen = set()

    def frames():
        yield from pictures(3)
        seen.update(os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task"))

    before = os.sched_getscheduler(0)
    encode(frames(), tmp_path / "v.mp4", 10, EncodeSettings(preset=12))
    assert seen | {os.sched_getscheduler(0)} == {before}


def test_settings_are_plain_values():
    assert EncodeSettings().as_dict() == {"codec": "libsvtav1", "crf": 30, "gop": 2, "preset": 8, "pix_fmt": "yuv420p"}
