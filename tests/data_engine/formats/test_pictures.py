from __future__ import annotations

import numpy as np
import pytest

from data_engine.errors import SourceError
from data_engine.formats.arrays import Spec
from data_engine.formats.pictures import Pictures, pictures
from data_engine.formats.rows import Held
from tests.data_engine.formats.reading import coded, decoded, scene


def files(data: list[bytes]) -> Held:
    values = np.empty(len(data), object)
    values[:] = data
    return Held("a", values, Spec("bytes", ()))


def padded(data: list[bytes]) -> Held:
    longest = max(map(len, data))
    return Held("a", np.stack([np.frombuffer(item.ljust(longest, b"\0"), np.uint8) for item in data]))


@pytest.mark.parametrize("holder", [files, padded, lambda data: Held("a", np.array(data, "S"))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_colour_is_frames(holder, kind: str) -> None:
    data = [coded(frame, kind) for frame in scene(5, 16, 24)]
    found = pictures(holder(data))
    assert isinstance(found, Pictures)
    assert (found.kind, found.spec, len(found)) == (kind, Spec("uint8", (16, 24, 3)), 5)
    np.testing.assert_array_equal(found.read(1, 4), np.stack([decoded(item) for item in data[1:4]]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_grey_png_is_numbers_and_a_grey_jpeg_a_frame(dtype: str) -> None:
    planes = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 20, 30)).astype(dtype)
    found = pictures(files([coded(plane, "PNG") for plane in planes]))
    assert found.spec == Spec(dtype, (20, 30))
    np.testing.assert_array_equal(found.load(), planes)
    grey = [coded(frame[..., 0]) for frame in scene(2, 16, 24)]
    frames = pictures(files(grey)).load()
    np.testing.assert_array_equal(frames, np.stack([decoded(item) for item in grey])[..., None].repeat(3, -1))


def test_what_is_no_picture_stays_what_it_is() -> None:
    for rows in (
        files([b"hello" * 20]),
        files([]),
        Held("a", np.zeros((3, 100), np.uint8)),
        Held("a", np.zeros((3, 4), np.uint8)),
        Held("a", np.array(["text"] * 3)),
    ):
        assert pictures(rows) is rows


def test_odd_rows_are_named_by_their_step() -> None:
    data = [coded(frame) for frame in scene(3, 16, 24)]
    for odd, message in ((b"", "step 2: an image is not decodable"), (coded(scene(1, 16, 32)[0]), "step 2: 32x16 pix")):
        with pytest.raises(SourceError, match=message):
            pictures(files([*data[:2], odd])).load()
