from __future__ import annotations

import numpy as np
import pytest

from data_engine.errors import SourceError
from data_engine.video import FrameReader, as_mp4, is_mp4, stream_key

TICKS = [70, 160, 280, 370, 460, 600]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libsvtav1"), ("a.mkv", "mpeg4")]
)
def test_packets_and_times_are_untouched(make_video, tmp_path, name, codec):
    path = make_video(name, n=6, codec=codec, ticks=TICKS, **({"bf": "2", "g": "6"} if codec == "libx264" else {}))
    done = as_mp4(path, tmp_path / "out.mp4")
    assert not is_mp4(path)
    assert is_mp4(tmp_path / "out.mp4")
    assert done.settings is None
    with FrameReader(path) as source, FrameReader(tmp_path / "out.mp4") as kept:
        np.testing.assert_allclose(source.times + done.shift_s, kept.times, atol=1e-9)
        assert kept.times[0] >= 0
        np.testing.assert_array_equal(source.at(source.times), kept.at(kept.times))
    again = tmp_path / "again.mp4"
    as_mp4(path, again)
    assert again.read_bytes() == (tmp_path / "out.mp4").read_bytes()


def test_what_mp4_cannot_hold_is_encoded(make_video, tmp_path):
    path = make_video("a.webm", n=6, codec="libvpx", ticks=TICKS)
    done = as_mp4(path, tmp_path / "out.mp4")
    assert done.settings is not None
    with FrameReader(path) as source, FrameReader(tmp_path / "out.mp4") as kept:
        np.testing.assert_allclose(source.times + done.shift_s, kept.times, atol=1e-4)
    assert stream_key(tmp_path / "out.mp4") != stream_key(path)


def test_no_video_leaves_nothing(tmp_path):
    (tmp_path / "a.mkv").write_bytes(b"ffconcat version 1.0\nfile b.mp4\n")
    for step in (lambda: is_mp4(tmp_path / "a.mkv"), lambda: as_mp4(tmp_path / "a.mkv", tmp_path / "out.mp4")):
        with pytest.raises(SourceError, match="is not an MP4, Matroska or AVI file"):
            step()
    assert not (tmp_path / "out.mp4").exists()
