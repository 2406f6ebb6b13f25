from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.video import FrameReader
from data_engine.video.recut import _merged, recut


def spans_of(*frames, fps=10.0):
    return [(start / fps, stop / fps) for start, stop in frames]


def held(path, spans, kept):
    """Which spans came out packet by packet; every frame of each is where it is said to be."""
    with FrameReader(path) as reader:
        for span, part in zip(spans, kept, strict=True):
            with FrameReader(part.path) as there:
                half = 0.5 / reader.info.fps
                times = reader.times[(reader.times >= span[0] - half) & (reader.times < span[1] - half)]
                now = there.at(part.start_s + times - span[0])
                assert there.count(part.start_s, part.end_s) == len(times)
                if part.settings is None:
                    assert there.digest(part.start_s, part.end_s) == reader.digest(*span)
                    assert np.array_equal(now, reader.at(times))
                else:
                    assert np.abs(now.astype(int) - reader.at(times)).mean() < 8
    return [part.settings is None for part in kept]


def test_what_lies_between_goes_and_the_rest_is_copied(make_video, tmp_path):
    path = make_video(n=40, g="2", bf="0")
    spans = spans_of((0, 10), (18, 30), (18, 24), (30, 33))
    kept = recut(path, spans, tmp_path)
    assert held(path, spans, kept) == [True] * 4
    assert len({part.path for part in kept}) == 1
    with FrameReader(kept[0].path) as there:
        assert there.info.frames == 25  # an overlap once


def test_a_span_between_keyframes_is_encoded_alone(make_video, tmp_path):
    path = make_video(n=40, g="10", bf="0")
    spans = spans_of((0, 10), (13, 20), (20, 33), (33, 40))
    kept = recut(path, spans, tmp_path)
    assert held(path, spans, kept) == [True, False, True, True]
    (settings_used,) = {part.settings for part in kept} - {None}
    assert settings_used.codec == "libsvtav1" or settings_used.codec == "libx264"


def test_equal_spans_give_equal_bytes(make_video, tmp_path):
    path = make_video(n=40, g="10")
    spans = spans_of((3, 8), (20, 30))
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append([part.path.read_bytes() for part in recut(path, spans, tmp_path / name)])
    assert made[0] == made[1]


def test_real_episodes_of_one_file(shared_data, tmp_path):
    path = shared_data / "videos" / "aloha_sim_insertion_human.mp4"
    with FrameReader(path) as reader:
        keys = reader.times[reader._track.key[reader._track.shown]]
    spans = [(float(keys[4]), float(keys[9])), (float(keys[9]), float(keys[12])), (float(keys[30]), float(keys[40]))]
    assert held(path, spans, recut(path, spans, tmp_path)) == [True] * 3


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError, match="not an MP4"):
        recut(tmp_path / "a.mp4", [(0.0, 1.0)], tmp_path)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=12))
def test_merged_spans_cover_the_same_and_lie_apart(pairs):
    spans = sorted({(float(start), float(start + length)) for start, length in pairs})
    merged = _merged(spans, 0.5)
    covered = {second for start, end in spans for second in range(int(start), int(end))}
    assert {second for start, end in merged for second in range(int(start), int(end))} == covered
    assert all(first[1] < second[0] for first, second in itertools.pairwise(merged))
