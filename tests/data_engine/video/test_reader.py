from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.video import FrameReader, copy_spans, encode

G1 = "g1_lerobot_v21/videos/chunk-000/observation.images.cam_high"
REAL = [f"{G1}/episode_00000{i}.mp4" for i in range(6)] + [
    "videos/aloha_sim_insertion_human.mp4",
    "videos/clip_10s.mp4",
    "videos/umi_cup_in_the_wild.mp4",
]
JITTER = np.random.default_rng(3).integers(-30, 31, 40)
KINDS = {
    "h264 with B-frames": {"g": "20", "bf": "3"},
    "h264 with a pyramid of B-frames": {"g": "30", "bf": "5", "b-pyramid": "normal", "b_strategy": "2"},
    "h264 with open GOPs": {"g": "8", "bf": "3", "x264-params": "open-gop=1:scenecut=0"},
    "h264 at a variable rate": {"g": "6", "bf": "2", "ticks": [100 * i + int(JITTER[i]) for i in range(40)]},
    "h264 in Matroska": {"name": "v.mkv", "g": "10", "bf": "2"},
    "hevc with open GOPs": {"codec": "libx265", "x265-params": "keyint=8:bframes=3:open-gop=1:log-level=none"},
    "av1": {"codec": "libsvtav1", "g": "2", "crf": "30", "preset": "12"},
    "av1 with hidden frames": {"codec": "libsvtav1", "g": "32", "crf": "30", "preset": "12"},
    "vp9 in WebM": {"name": "v.webm", "codec": "libvpx-vp9", "g": "8", "auto-alt-ref": "1", "lag-in-frames": "8"},
    "mpeg4 in AVI": {"name": "v.avi", "codec": "mpeg4", "g": "5"},
    "ten bits": {"pix_fmt": "yuv420p10le", "g": "4", "bf": "2"},
    "mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


def sequential(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("name", REAL)
def test_real_recordings_equal_a_sequential_decode(shared_data, name):
    path = shared_data / name
    with FrameReader(path) as reader, av.open(str(path)) as container:
        chance = np.random.default_rng(0).random(reader.info.frames) < 0.02
        i = 0
        for i, frame in enumerate(container.decode(video=0)):
            whole = frame.to_ndarray(format="rgb24")
            assert np.array_equal(reader.at([reader.times[i]])[0], whole)
            if chance[i]:  # leave the run of decoding and come back
                reader.at([reader.times[-1 - i]])
                assert np.array_equal(reader.at([reader.times[i]])[0], whole)
        assert i + 1 == reader.info.frames


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_equals_a_sequential_decode(make_video, kind):
    path = make_video(n=40, **KINDS[kind])
    whole, rng = sequential(path), np.random.default_rng(1)
    with FrameReader(path) as reader:
        assert reader.info.frames == len(whole) and (np.diff(reader.times) > 0).all()
        assert np.array_equal(reader.at(reader.times), whole)
        for _ in range(30):
            order = rng.integers(0, len(whole), rng.integers(1, 6))
            assert np.array_equal(reader.at(reader.times[order]), whole[order]), order
        for i in range(len(whole)):
            assert np.array_equal(reader.at(reader.times[i : i + 1])[0], whole[i]), i


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.lists(st.integers(0, 59), max_size=8), max_size=6))
def test_no_sequence_of_calls_leaves_a_trace(b_frames, calls):
    reader, whole = b_frames
    for order in calls:
        assert np.array_equal(reader.at(reader.times[order]), whole[order])


@pytest.fixture
def b_frames(make_video):
    path = make_video(n=60, g="40", bf="3")
    with FrameReader(path) as reader:
        yield reader, sequential(path)


def test_a_video_starting_later_than_zero(make_video):
    path = make_video(ticks=[5000 + 100 * i for i in range(24)], bf="2")
    with FrameReader(path) as reader:
        assert reader.times[0] == pytest.approx(5.0, abs=1e-3)
        assert np.array_equal(reader.at(reader.times), sequential(path))


def test_the_frame_is_the_nearest_within_half_an_interval(make_video):
    with FrameReader(make_video(ticks=[100 * i for i in range(24) if i != 10] + [2400])) as reader:
        exact = reader.at([0.4])
        assert np.array_equal(reader.at([0.36]), exact) and np.array_equal(reader.at([0.449]), exact)
        assert np.array_equal(reader.at([0.45]), exact), "of two equally near the earlier"
        with pytest.raises(SourceError, match=r"no frame within 0\.0501 s of 1 s"):
            reader.at([0.4, 1.0])
        assert reader.at([1.0], tolerance_s=0.11).shape == (1, 64, 96, 3)
        with pytest.raises(SourceError, match=r"0\.41"):
            reader.at([0.41], tolerance_s=0.001)
        for wrong in (-0.06, 2.5, float("nan"), float("inf")):
            with pytest.raises(SourceError, match="no frame"):
                reader.at([wrong])
        assert reader.at([]).shape == (0, 64, 96, 3)


def test_a_file_that_grew_keeps_the_earlier_digest(make_video, tmp_path):
    first, second = make_video("a.mp4", g="4"), make_video("b.mp4", g="4", seed=5)
    joined = tmp_path / "joined.mp4"
    places = copy_spans([(first, 0, None), (second, 0, None)], joined)
    with FrameReader(first) as a, FrameReader(second) as b, FrameReader(joined) as both:
        assert a.digest() == both.digest(*places[0]) and b.digest() == both.digest(*places[1])
        assert a.digest() != b.digest() and both.digest() not in (a.digest(), b.digest())
        assert a.count() == both.count(*places[0]) == 24 and both.count() == 48
        nudged = places[1][0] + 0.004, places[1][1] - 0.004
        assert both.digest(*nudged) == b.digest() and both.count(*nudged) == 24
        assert both.count(100) == 0


def test_digest_sees_one_flipped_byte(make_video, tmp_path):
    path = make_video(g="4")
    with FrameReader(path) as reader:
        at = int(reader._track._at[5]) + 20
        before = reader.digest(), reader.digest(0, 0.4)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    other = tmp_path / "other.mp4"
    other.write_bytes(data)
    with FrameReader(other) as reader:
        assert reader.digest() != before[0] and reader.digest(0, 0.4) == before[1]


def test_a_damaged_packet_is_an_error_and_its_neighbours_are_read(make_video, tmp_path):
    path = make_video(codec="libsvtav1", g="2", preset="12")
    with FrameReader(path) as reader:
        whole, at, size = reader.at(reader.times), int(reader._track._at[8]), int(reader._track.size[8])
    data = bytearray(path.read_bytes())
    data[at : at + size] = b"\xff" * size
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with FrameReader(broken) as reader:
        with pytest.raises(SourceError, match=r"frame at 0\.[89] s cannot be decoded"):
            reader.at(reader.times)
        assert np.array_equal(reader.at(reader.times[:8]), whole[:8])
        assert np.array_equal(reader.at(reader.times[10:]), whole[10:])


def test_a_file_that_is_written_to_while_it_is_open_is_an_error(make_video):
    path = make_video("a.mp4", n=10)
    with FrameReader(path) as reader:
        frames = reader.at(reader.times)
        path.unlink()  # another file under the name is none of the reader's business
        path.write_bytes(b"other")
        np.testing.assert_array_equal(reader.at(reader.times), frames)
    path = make_video("b.mp4", n=10)
    with FrameReader(path) as reader, path.open("r+b") as file:
        file.truncate(1000)
        with pytest.raises(SourceError, match=r"b\.mp4 was changed while it was being read"):
            reader.at(reader.times)


def test_a_reader_travels_between_processes_and_threads(make_video):
    path = make_video(n=40, g="10", bf="2")
    whole = sequential(path)
    with FrameReader(path) as reader:
        reader.at([0.3])
        copy = pickle.loads(pickle.dumps(reader))
        assert np.array_equal(copy.at(copy.times), whole)
        copy.close()

        def read(seed):
            order = np.random.default_rng(seed).integers(0, 40, 30)
            return all(np.array_equal(reader.at(reader.times[[i]])[0], whole[i]) for i in order)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(4)))


def test_importing_the_package_needs_no_pyav():
    code = "import sys, data_engine.video; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_frames_are_scaled_as_the_mean_of_areas(tmp_path):
    """Every other pixel of a stripe is bright: taking pixels would give stripes, areas give their mean."""
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 200
    ramp = np.repeat(np.linspace(20, 220, 96).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    encode([stripes, ramp], tmp_path / "v.mp4", 10)
    with FrameReader(tmp_path / "v.mp4", size=(32, 48)) as reader:
        reader = pickle.loads(pickle.dumps(reader))
        first, second = reader.at([0.0, 0.1]).astype(float)
    assert first.shape == (32, 48, 3)
    assert abs(first.mean() - 100) < 5 and first.std() < 12
    assert np.abs(second - ramp.astype(float).reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))).mean() < 3
    with FrameReader(tmp_path / "v.mp4", size=(64, 96)) as same, FrameReader(tmp_path / "v.mp4") as plain:
        assert np.array_equal(same.at([0.0, 0.1]), plain.at([0.0, 0.1]))
