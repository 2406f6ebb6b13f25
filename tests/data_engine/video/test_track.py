from __future__ import annotations

import os
import time

import numpy as np
import pytest

from data_engine.errors import SourceError
from data_engine.video.track import Track


def test_info_comes_from_the_packets(make_video):
    info = Track(make_video(n=24)).info
    assert (info.codec, info.width, info.height, info.frames, info.pix_fmt) == ("h264", 96, 64, 24, "yuv420p")
    assert info.fps == pytest.approx(10) and info.duration_s == pytest.approx(2.4)


def test_info_of_real_recordings(shared_data):
    g1 = Track(shared_data / "g1_lerobot_v21/videos/chunk-000/observation.images.cam_high/episode_000000.mp4").info
    assert (g1.codec, g1.width, g1.height, g1.fps, g1.frames) == ("av1", 640, 480, 30.0, 393)
    aloha = Track(shared_data / "videos/aloha_sim_insertion_human.mp4").info
    assert (aloha.codec, aloha.pix_fmt, aloha.fps, aloha.frames) == ("h264", "yuv444p", 50.0, 500)


def test_a_few_dropped_frames_do_not_change_the_rate(make_video):
    ticks = [100 * i for i in range(24) if i not in (5, 6, 13)]
    assert Track(make_video(n=len(ticks), ticks=ticks)).info.fps == pytest.approx(10)


def test_uneven_gaps_still_have_a_rate(make_video):
    assert Track(make_video(n=3, ticks=[0, 100, 1100])).info.fps == pytest.approx(10)


def test_one_frame_has_the_rate_that_the_container_states(make_video):
    info = Track(make_video(n=1)).info
    assert info.frames == 1 and info.fps > 0 and np.isfinite(info.duration_s)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi", "v.mov"])
def test_packets_are_found_in_every_container(make_video, name):
    import av

    path = make_video(name, codec="mpeg4" if name.endswith("avi") else "libx264", g="4")
    track = Track(path)
    with av.open(str(path)) as container:
        coded = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert [track.data(i) for i in range(len(track.pts))] == coded
    assert [bytes(track.packet(i)) for i in range(len(track.pts))] == coded


@pytest.mark.parametrize(
    "text",
    [
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n",
        b"",
        b"\0\0\0\x20ftyp",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
    ],
)
def test_what_is_no_video_is_refused(make_video, tmp_path, text):
    make_video("other.mp4")
    disguised = tmp_path / "disguised.mp4"
    disguised.write_bytes(text)
    with pytest.raises(SourceError):
        Track(disguised)


def test_reordered_frames_without_presentation_times_are_refused(make_video):
    with pytest.raises(SourceError, match="presentation time"):
        Track(make_video("v.avi", g="12", bf="3"))
    assert Track(make_video("plain.avi", g="12", bf="0")).info.frames == 24


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        Track(tmp_path / "none.mp4")
    with pytest.raises(SourceError):
        Track(tmp_path)


def test_a_name_is_never_a_protocol(make_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video("a.mp4")
    with pytest.raises(SourceError):
        Track("concat:a.mp4|a.mp4")
    os.rename("a.mp4", "concat:a.mp4")
    assert Track("concat:a.mp4").info.frames == 24


def test_a_truncated_file_is_refused_without_its_index_and_shorter_with_it(make_video, tmp_path):
    whole = make_video("whole.mp4", g="1")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(SourceError):
        Track(cut)
    front = make_video("front.mp4", n=24, g="1", seed=1)
    moved = _faststart(front, tmp_path / "moved.mp4")
    cut.write_bytes(moved.read_bytes()[: moved.stat().st_size * 3 // 4])
    track = Track(cut)
    assert 0 < track.info.frames < 24


def _faststart(path, out):
    import av

    with av.open(str(path)) as source, av.open(str(out), "w", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return out


def test_an_index_is_kept_for_the_very_file_and_no_longer(make_video):
    path = make_video("first.mp4", n=12)
    old = os.stat(path).st_mtime_ns - 10**9
    os.utime(path, ns=(old, old))
    time.sleep(0.06)  # until the clock of the file's changes has moved on
    first, again = Track(path), Track(path)
    assert again.pts is first.pts
    assert [again.data(i) for i in range(12)] == [first.data(i) for i in range(12)]
    assert np.array_equal(again.times, first.times)
    os.replace(make_video("second.mp4", n=7), path)
    assert len(Track(path).times) == 7
