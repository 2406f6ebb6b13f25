from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data_engine.errors import SourceError
from data_engine.formats.images import decode, decode_rgb, image_size


def coded(values: np.ndarray, form: str = "PNG", **how) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, form, **how)
    return out.getvalue()


def numbers(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_is_exact_as_png_and_as_libjpeg_decodes_it() -> None:
    frame = numbers(12, 20, 3)
    np.testing.assert_array_equal(decode_rgb(coded(frame)), frame)
    np.testing.assert_array_equal(decode_rgb(memoryview(coded(frame))), frame)
    jpeg = coded(frame, "JPEG", quality=70)
    np.testing.assert_array_equal(decode_rgb(jpeg), np.asarray(Image.open(io.BytesIO(jpeg))))
    assert image_size(jpeg) == (12, 20)


def test_grey_and_opaque_alpha_become_colour_without_loss() -> None:
    grey = numbers(6, 7)
    np.testing.assert_array_equal(decode_rgb(coded(grey)), np.repeat(grey[..., None], 3, axis=2))
    rgba = numbers(6, 7, 4)
    rgba[..., 3] = 255
    np.testing.assert_array_equal(decode_rgb(coded(rgba)), rgba[..., :3])
    rgba[2, 3, 3] = 254
    with pytest.raises(SourceError, match="transparent"):
        decode_rgb(coded(rgba))


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 2), ("uint8", 3), ("uint8", 4), ("uint16", 1)])
def test_other_images_are_exact(dtype: str, channels: int) -> None:
    values = numbers(5, 9, channels, dtype=dtype)
    found = decode(coded(values[..., 0] if channels == 1 else values), dtype, channels)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_float_images_are_four_bytes_a_pixel() -> None:
    values = np.random.default_rng(0).normal(size=(5, 9, 1)).astype(np.float32)
    found = decode(coded(values.view(np.uint8)), "float32", 1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)


def test_sixteen_bits_are_never_cut_to_eight() -> None:
    deep = png(2, 1, 16, 2, b"\0" + bytes(range(12)))
    for refused in (lambda: decode_rgb(deep), lambda: decode(deep, "uint8", 3), lambda: decode(deep, "uint16", 1)):
        with pytest.raises(SourceError, match="16 bits"):
            refused()
    with pytest.raises(SourceError, match="not 1 channels of uint8"):
        decode(coded(numbers(3, 3, dtype="uint16")), "uint8", 1)


def test_bombs_and_damage_are_refused_in_one_line() -> None:
    frame = coded(numbers(30, 30, 3))
    bad = {
        "a bomb": png(60_000, 60_000, 8, 2, b"\0" * 1000),
        "a smaller bomb": png(9_000, 9_000, 8, 2, b"\0" * 1000),
        "cut": frame[: len(frame) // 2],
        "flipped": frame[:60] + bytes([frame[60] ^ 255]) + frame[61:],
        "another kind": b"GIF89a" + frame,
        "empty": b"",
    }
    for what, data in bad.items():
        with pytest.raises(SourceError) as raised:
            decode_rgb(data)
        assert raised.value.code == "bad_image", what
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(70)}, {"subsampling": 0}])
def test_the_size_of_any_jpeg_is_in_its_header(how: dict) -> None:
    data = coded(numbers(13, 29, 3), "JPEG", **how)
    assert image_size(data) == image_size(memoryview(data)) == (13, 29)
    filled = data[:2] + b"\xff\xff" + data[2:]  # fill bytes may stand before any marker
    assert image_size(filled) == (13, 29)
    for bad in (data[:20], b"\xff\xd8\xff", b"", b"GIF89a" + data, data[:2] + b"\xff\xe0\0\0" * 9):
        with pytest.raises(SourceError, match="no size"):
            image_size(bad)
    with pytest.raises(SourceError, match="pixels"):
        image_size(png(60_000, 60_000, 8, 2, b""))


def test_the_size_is_checked_before_decoding() -> None:
    cut = coded(numbers(30, 30, 3))[:60]  # only the header is whole
    with pytest.raises(SourceError, match=r"\(30, 30\), not \(8, 8\)"):
        decode_rgb(cut, (8, 8))
