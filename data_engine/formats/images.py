"""PNG and JPEG images of strangers: the size is read before anything is decoded, and nothing is reduced unseen."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.errors import SourceError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["decode", "decode_rgb", "image_size"]

_PIXELS = 1 << 26  # 8192 x 8192: a few bytes can declare any size
_PNG = b"\x89PNG\r\n\x1a\n"
_SIZE_PNG, _SIZE_JPEG, _LENGTH_JPEG = struct.Struct(">II"), struct.Struct(">HH"), struct.Struct(">H")
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # the segments of a JPEG that hold its size
_MODES = {1: ("L",), 2: ("LA",), 3: ("RGB",), 4: ("RGBA",)}


def image_size(data: bytes | memoryview) -> tuple[int, int]:
    """(height, width) as the image's header says; the pixels are not looked at. O(segments of the header).

    Raises ``SourceError`` (``bad_image``) for what is no PNG or JPEG and for more than 64 megapixels.
    """
    head = bytes(data[:24])
    if head.startswith(_PNG) and head[12:16] == b"IHDR" and len(head) == 24:
        return _bounded(*_SIZE_PNG.unpack_from(head, 16)[::-1])
    at = 2 if head.startswith(b"\xff\xd8\xff") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            return _bounded(*_SIZE_JPEG.unpack_from(data, at + 5))
        at += 1 if marker == 0xFF else 2 + _LENGTH_JPEG.unpack_from(data, at + 2)[0]
    raise SourceError("an image is not decodable: no size in its header", code="bad_image")


def decode_rgb(data: bytes | memoryview, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [h, w, 3] of an 8-bit image; grey becomes three equal channels, an opaque alpha falls away.

    JPEG is decoded with the accurate transform, as TensorFlow does for ``INTEGER_ACCURATE``; its own default is a
    faster one whose pixels differ by a few levels.

    Raises ``SourceError`` (``bad_image``) for what is no whole PNG or JPEG, is larger than 64 megapixels, or would lose
    something: 16 bits, real transparency, CMYK; and before decoding where it is not of ``size`` (height, width).
    """
    with _opened(data) as image:
        if size is not None and (image.height, image.width) != size:
            raise SourceError(f"an image is {(image.height, image.width)}, not {size}", code="bad_image")
        if _depth(data) > 8 or image.mode not in ("RGB", "L", "P", "RGBA"):
            raise SourceError(f"an image has mode {_mode(data, image)}, not 8-bit colour", code="bad_image")
        if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
            raise SourceError("an image is partly transparent", code="bad_image")
        return np.asarray(image.convert("RGB"))


def decode(data: bytes | memoryview, dtype: str, channels: int) -> np.ndarray:
    """[h, w, channels] of ``dtype`` uint8, uint16, or float32 (one channel, its bytes held as four of uint8).

    Raises ``SourceError`` as :func:`decode_rgb` does, and where the image holds another type or number of channels.
    """
    if dtype == "float32":
        return decode(data, "uint8", 4).view("<f4")
    with _opened(data) as image:
        if dtype == "uint16":
            if channels == 1 and image.mode.startswith("I"):
                return np.asarray(image).astype(np.uint16)[..., None]
        elif _depth(data) <= 8 and image.mode in _MODES[channels]:
            return np.asarray(image).reshape(image.height, image.width, channels)
        raise SourceError(
            f"an image has mode {_mode(data, image)}, not {channels} channels of {dtype}", code="bad_image"
        )


@contextmanager
def _opened(data: bytes | memoryview) -> Iterator[Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            _bounded(image.height, image.width)
            yield image
    except UnidentifiedImageError:  # its own words name an address in memory
        raise SourceError("an image is not decodable: it is neither PNG nor JPEG", code="bad_image") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise SourceError(f"an image is not decodable: {error}", code="bad_image") from error


def _bounded(height: int, width: int) -> tuple[int, int]:
    if not 0 < height * width <= _PIXELS:
        raise SourceError(f"an image declares {width} x {height} pixels", code="bad_image")
    return height, width


def _depth(data: bytes | memoryview) -> int:
    """Bits a channel. Pillow reads 16-bit colour as 8-bit without a word."""
    head = bytes(data[:25])
    return head[24] if head.startswith(_PNG) and len(head) == 25 else 8


def _mode(data: bytes | memoryview, image: Any) -> str:
    return f"{image.mode} of {_depth(data)} bits"
