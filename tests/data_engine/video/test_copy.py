from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from data_engine.errors import RequestError, SourceError
from data_engine.video import EncodeSettings, FrameReader, can_copy, copy_spans, stream_key, transcode_span

G1 = "g1_lerobot_v21/videos/chunk-000/observation.images.cam_high"


def held_against_sources(spans, out, places):
    """Every frame of every span lies in ``out`` at its time, the same to the bit; nothing else does."""
    total = 0
    with FrameReader(out) as merged:
        for (path, start, end), (from_s, to_s) in zip(spans, places, strict=True):
            with FrameReader(path) as reader:
                half = 0.5 / reader.info.fps
                times = reader.times[(reader.times >= start - half) & (reader.times < (end or 1e9) - half)]
                some = times[np.unique(np.linspace(0, len(times) - 1, 30).astype(int))]
                assert np.array_equal(merged.at(from_s + some - start, tolerance_s=1e-6), reader.at(some))
                assert np.allclose(merged.times[total : total + len(times)], from_s + times - start, atol=1e-6)
                assert merged.count(from_s, to_s) == len(times) == reader.count(start, end)
                assert merged.digest(from_s, to_s) == reader.digest(start, end)
                total += len(times)
        assert merged.info.frames == total


def test_real_episodes_into_one_file(shared_data, tmp_path):
    spans = [(shared_data / G1 / f"episode_00000{i}.mp4", 0.0, None) for i in (2, 0, 5)]
    assert len({stream_key(path) for path, _, _ in spans}) == 1 and can_copy(spans)
    places = copy_spans(spans, tmp_path / "out.mp4")
    held_against_sources(spans, tmp_path / "out.mp4", places)
    assert all(before[1] <= after[0] for before, after in pairwise(places))
    again = copy_spans(spans, tmp_path / "again.mp4")
    assert again == places and (tmp_path / "again.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()


@pytest.mark.parametrize("name", ["aloha_sim_insertion_human.mp4", "umi_cup_in_the_wild.mp4"])
def test_spans_within_one_real_file(shared_data, tmp_path, name):
    path = shared_data / "videos" / name
    with FrameReader(path) as reader:
        keys = np.flatnonzero(reader._track.key)
        start, middle = (float(reader.times[keys[k]]) for k in (10, 40))
    spans = [(path, middle, None), (path, start, middle), (path, start + 1e-4, middle - 1e-4)]
    held_against_sources(spans, tmp_path / "out.mp4", copy_spans(spans, tmp_path / "out.mp4"))


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.webm"])
def test_b_frames_variable_rate_and_other_containers(make_video, tmp_path, name):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    ticks = [100 * i + (17 * i) % 23 for i in range(24)]
    options = {"codec": codec, "g": "6"} | ({"bf": "2", "ticks": ticks} if codec == "libx264" else {})
    a, b = make_video(f"a{name}", **options), make_video(f"b{name}", seed=9, **options)
    spans = [(a, 0.0, None), (b, 0.0, None), (a, 0.0, None)]
    held_against_sources(spans, tmp_path / "out.mp4", copy_spans(spans, tmp_path / "out.mp4"))


def test_a_copy_of_a_copy(make_video, tmp_path):
    path = make_video(n=30, g="5", bf="2")
    with FrameReader(path) as reader:
        keys = reader._track.pts[reader._track.key] * float(reader._track.time_base)
    spans = [(path, float(start), float(end)) for start, end in zip(keys, [*keys[1:], 3.0], strict=True)]
    places = copy_spans(spans[::-1], tmp_path / "backwards.mp4")
    held_against_sources(spans[::-1], tmp_path / "backwards.mp4", places)
    back = [(tmp_path / "backwards.mp4", *place) for place in places[::-1]]
    held_against_sources(back, tmp_path / "back.mp4", copy_spans(back, tmp_path / "back.mp4"))
    with FrameReader(path) as before, FrameReader(tmp_path / "back.mp4") as after:
        assert np.array_equal(before.at(before.times), after.at(after.times))
        assert before.digest() == after.digest()


def test_what_cannot_be_copied_is_refused(make_video, tmp_path):
    path = make_video("a.mp4", n=30, g="6", bf="2")
    other = make_video("b.mp4", n=30, g="6", bf="2", pix_fmt="yuv444p")
    open_gops = make_video("c.mp4", n=30, **{"g": "8", "bf": "3", "x264-params": "open-gop=1:scenecut=0"})
    assert stream_key(path) != stream_key(other)
    with FrameReader(path) as reader:
        inside = next(i for i in range(30) if not reader._track.key[reader._track.shown[i]])
        midway = float(reader.times[inside])
    wrong = {
        "keyframe": [(path, midway, None)],
        "coded otherwise": [(path, 0.0, None), (other, 0.0, None)],
        "holds no frames": [(path, 50.0, None)],
        "no spans": [],
        "keyframe|others outside": [(open_gops, 0.8, 1.6)],
    }
    for message, spans in wrong.items():
        assert not can_copy(spans)
        with pytest.raises(SourceError, match=message):
            copy_spans(spans, tmp_path / "out.mp4")
        assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(SourceError, match="No such file"):
        can_copy([(tmp_path / "none.mp4", 0.0, None)])


def test_a_cut_between_a_frame_and_what_it_refers_to_is_refused(make_video, tmp_path):
    path = make_video(n=30, g="30", bf="3", **{"x264-params": "b-adapt=0:scenecut=0"})
    assert not can_copy([(path, 0.0, 0.3)])
    assert can_copy([(path, 0.0, None)])


def test_transcoding_keeps_times(make_video, tmp_path):
    ticks = [100 * i + (17 * i) % 23 for i in range(30)]
    path, out = make_video(n=30, g="30", bf="2", ticks=ticks), tmp_path / "out.mp4"
    made = transcode_span(path, 0.52, 2.1, out, EncodeSettings(crf=10))
    with FrameReader(path) as before, FrameReader(out) as after:
        times = before.times[(before.times >= 0.47) & (before.times < 2.05)]
        assert made.frames == after.info.frames == len(times)
        assert np.allclose(after.times, (times - 0.52).clip(0), atol=1e-4)
        assert np.abs(after.at(after.times).astype(int) - before.at(times)).mean() < 6
    assert made.info.codec == "av1"
    with pytest.raises(SourceError, match="no frames"):
        transcode_span(path, 80.0, None, tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_a_source_is_never_overwritten(make_video):
    path = make_video()
    before = path.read_bytes()
    with pytest.raises(RequestError, match="overwrite"):
        copy_spans([(path, 0.0, None)], path)
    with pytest.raises(RequestError, match="overwrite"):
        transcode_span(path, 0.0, None, path)
    assert path.read_bytes() == before
