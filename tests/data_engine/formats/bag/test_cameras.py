from __future__ import annotations

import io
import json
from base64 import b64encode
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.bag.cameras import Frames, frame_size, is_camera
from data_engine.formats.bag.files import opened, recordings
from tests.data_engine.formats.bag.bag_sets import (
    KINDS,
    START,
    coded,
    frames,
    image,
    joints,
    plain,
    write,
    write_mcap,
)  # fmt: skip

IMAGE, CODED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STEP = 100_000_000


def read(path: Path, chosen: list[int] | None = None, topic: str = "/cam") -> list[np.ndarray]:
    """The frames of a topic through the format's own eyes, each message once unless ``chosen`` says otherwise."""
    source = Source(str(path))
    recording = recordings(source)[0]
    with opened(source, recording) as bag:
        channel = next(iter(bag.of([topic]).values()))
        assert is_camera(channel)
        where = [message.where for message in bag.messages(bag.of([topic]))]
        size = frame_size(channel, bag, where[0])
    picked = np.arange(len(where)) if chosen is None else np.array(chosen)
    made = Frames(source, recording, topic, where, picked, size)
    found = list(made())
    assert all(frame.dtype == np.uint8 and frame.shape == (*size, 3) for frame in found)
    return found


def stored(tmp_path: Path, kind: str, of: str, made: list) -> Path:
    return write(tmp_path / "a", kind, {"/cam": (of, [(START + i * STEP, one) for i, one in enumerate(made)])})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "8UC1"])
@pytest.mark.parametrize("pad", [0, 5])
def test_raw_images_are_exact(tmp_path: Path, kind: str, encoding: str, pad: int) -> None:
    rgb = frames(4, 6, 10)
    if encoding.startswith(("mono", "8UC")):
        rgb = np.repeat(rgb[..., :1], 3, axis=3)
        as_stored = rgb[..., 0]
    else:
        as_stored = rgb[..., ::-1] if encoding.startswith("bgr") else rgb
        if encoding.endswith("a8"):
            as_stored = np.concatenate([as_stored, np.full((*rgb.shape[:3], 1), 255, np.uint8)], axis=3)
    path = stored(tmp_path, kind, IMAGE, [image(frame, encoding, pad=pad) for frame in as_stored])
    np.testing.assert_array_equal(read(path), rgb)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_may_be_shown_often_or_never(tmp_path: Path, kind: str) -> None:
    rgb = frames(6)
    path = stored(tmp_path, kind, CODED, [coded(frame) for frame in rgb])
    chosen = [1, 1, 2, 4, 4, 4]
    np.testing.assert_array_equal(read(path, chosen), rgb[chosen])


def test_jpeg_is_what_pillow_reads(tmp_path: Path) -> None:
    path = stored(tmp_path, "mcap", CODED, [coded(frame, kind="JPEG") for frame in frames(3)])
    expected = []
    for frame in frames(3):
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "JPEG")
        expected.append(np.asarray(Image.open(out).convert("RGB")))
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (image(frames(1)[0][..., 0].astype(np.uint16), "16UC1"), "depth or 16 bits"),
        (image(frames(1)[0][..., 0].astype(np.float32), "32FC1"), "depth or 16 bits"),
        (image(frames(1)[0][..., 0], "bayer_rggb8"), "no encoding that is read"),
        (image(frames(1)[0][..., :2], "yuv422"), "no encoding that is read"),
        (image(np.concatenate([frames(1)[0], frames(1)[0][..., :1]], axis=2), "rgba8"), "partly transparent"),
        (plain(CODED, header=None, format="png", data=np.zeros(3, np.uint8)), "is not decodable"),
    ],
)
def test_images_that_would_lose_something_are_refused(tmp_path: Path, made, message: str) -> None:
    if message == "is not decodable":
        good = coded(frames(1)[0])

        def made(store):
            found = good(store)
            found.data = np.zeros(3, np.uint8)
            return found

    path = stored(tmp_path, "mcap", CODED if message == "is not decodable" else IMAGE, [made])
    with pytest.raises(SourceError, match=message) as raised:
        read(path)
    assert "0x" not in str(raised.value)


@pytest.mark.parametrize(("field", "value"), [("step", 3), ("height", 99), ("width", 0), ("height", 1 << 31)])
def test_an_image_that_lies_about_its_size_is_refused(tmp_path: Path, field: str, value: int) -> None:
    def made(store):
        found = image(frames(1)[0])(store)
        setattr(found, field, value)
        return found

    with pytest.raises(SourceError) as raised:
        read(stored(tmp_path, "mcap", IMAGE, [made]))
    assert raised.value.code == "bad_image"


def test_another_size_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, "ros1", IMAGE, [image(frames(1)[0]), image(frames(1, 8, 8)[0])])
    with pytest.raises(SourceError, match="8x8 pixels after 24x16"):
        read(path)


def foxglove(tmp_path: Path, name: str, rows: list[dict]) -> Path:
    made = [
        (START + i * STEP, START, json.dumps({"timestamp": {"sec": 1, "nsec": i}, **row}).encode())
        for i, row in enumerate(rows)
    ]
    return write_mcap(tmp_path / "f.mcap", {"/cam": (name, "json", "jsonschema", b"{}", made)})


def test_foxglove_images_in_json(tmp_path: Path) -> None:
    rgb = frames(3)
    raw = [
        {"width": 24, "height": 16, "encoding": "rgb8", "step": 72, "data": b64encode(frame.tobytes()).decode()}
        for frame in rgb
    ]
    np.testing.assert_array_equal(read(foxglove(tmp_path, "foxglove.RawImage", raw)), rgb)
    with pytest.raises(SourceError, match="base64"):
        read(foxglove(tmp_path, "foxglove.RawImage", [{**raw[0], "data": "~~~"}]))


def h264(rgb: np.ndarray, codec: str = "libx264") -> list[bytes]:
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = rgb.shape[2], rgb.shape[1], "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    encoder.options = {"tune": "zerolatency", "g": "5", "x264-params": "repeat-headers=1:bframes=0"}
    packets = []
    for i, frame in enumerate(rgb):
        made = av.VideoFrame.from_ndarray(frame, format="rgb24")
        made.pts = i
        packets += [bytes(packet) for packet in encoder.encode(made)]
    return packets + [bytes(packet) for packet in encoder.encode(None)]


def test_coded_video_decodes_to_one_frame_a_message(tmp_path: Path) -> None:
    rgb = np.stack([np.full((64, 64, 3), 10 + 20 * i, np.uint8) for i in range(11)])
    packets = h264(rgb)
    rows = [{"format": "h264", "data": b64encode(packet).decode()} for packet in packets]
    path = foxglove(tmp_path, "foxglove.CompressedVideo", rows)
    found = read(path)
    assert np.abs(np.stack(found).astype(int) - rgb).max() <= 4
    chosen = [3, 3, 7, 10]
    np.testing.assert_array_equal(read(path, chosen), np.stack(found)[chosen])
    late = foxglove(tmp_path, "foxglove.CompressedVideo", rows[2:])  # begins between two keyframes
    np.testing.assert_array_equal(read(late, [3, 4]), np.stack(found)[[5, 6]])
    with pytest.raises(SourceError, match="before the first whole frame"):
        read(late, [0, 4])
    with pytest.raises(SourceError, match="'vp8', which is not read"):
        read(foxglove(tmp_path, "foxglove.CompressedVideo", [{"format": "vp8", "data": ""}]))


def test_a_topic_of_numbers_is_no_camera(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "mcap", {"/a": ("sensor_msgs/msg/JointState", [(START, joints([1.0]))])})
    with opened(Source(str(path)), recordings(Source(str(path)))[0]) as bag:
        assert not any(map(is_camera, bag.channels.values()))
