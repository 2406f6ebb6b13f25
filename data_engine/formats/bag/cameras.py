"""Frames out of image messages: ROS ``Image`` and ``CompressedImage``, and Foxglove's, with its coded video."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.bag.codec import Channel, codec
from data_engine.formats.bag.container import Bag, Where
from data_engine.formats.bag.files import Recording, opened
from data_engine.formats.images import decode_rgb, image_size

__all__ = ["Frames", "frame_size", "is_camera"]

_RAW = {"Image", "RawImage"}
_CODED = {"CompressedImage"}
_VIDEO = {"CompressedVideo"}
_FIELDS = ("height", "width", "encoding", "step", "data")
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1}
_DECODERS = {"h264": "h264", "h265": "hevc", "vp9": "vp9", "av1": "av1"}
_PIXELS = 1 << 26


def is_camera(channel: Channel) -> bool:
    """Whether the channel's messages are images, by their type."""
    return channel.kind in _RAW | _CODED | _VIDEO and channel.type.split("/")[0].split(".")[0] in (
        "sensor_msgs", "foxglove", "foxglove_msgs"
    )  # fmt: skip


def frame_size(channel: Channel, bag: Bag, first: Where) -> tuple[int, int]:
    """(height, width) of the channel's frames, by its first message.

    Raises ``SourceError`` (``bad_image``) for an image that cannot become 8-bit RGB without loss or guess.
    """
    if channel.kind in _VIDEO:
        numbers = [number for number, other in bag.channels.items() if other == channel]
        later = (message.where for message in bag.messages(numbers))
        _, frame = next(_video(channel, bag, later), (0, None))
        if frame is None:
            raise SourceError(f"{channel.topic} has video of which no frame decodes", code="bad_image")
        return frame.shape[0], frame.shape[1]
    data = bag.load(first)
    if channel.kind in _CODED:
        size = image_size(_coded(channel, data))
        decode_rgb(_coded(channel, data))
        return size
    frame = _raw(channel, data)
    return frame.shape[0], frame.shape[1]


@dataclass(frozen=True)
class Frames:
    """The frames of one camera of one episode, one a step, decoded whenever they are asked for.

    ``images``: where each message that is needed lies, in order of time, and ``chosen`` [n] which of them a step shows.
    Of coded video these are all messages from the first on.
    """

    source: Source
    recording: Recording
    topic: str
    images: Sequence[Where]
    chosen: np.ndarray
    size: tuple[int, int]

    def __call__(self) -> Iterator[np.ndarray]:
        """A fresh iterator of uint8 (h, w, 3). Raises ``SourceError`` for an image that is damaged or another size."""
        with opened(self.source, self.recording) as bag:
            channels = list(bag.of([self.topic]).values())
            if channels[0].kind in _VIDEO:
                frames: Iterator[tuple[int, np.ndarray]] = _video(channels[0], bag, self.images)
            else:
                wanted = np.unique(self.chosen).tolist()
                frames = ((at, _image(channels[0], bag.load(self.images[at]))) for at in wanted)
            step = 0
            for at, frame in frames:
                if frame.shape[:2] != self.size:
                    raise SourceError(
                        f"{self.topic}: a frame of {frame.shape[1]}x{frame.shape[0]} pixels after "
                        f"{self.size[1]}x{self.size[0]}",
                        code="image_size",
                    )
                if step < len(self.chosen) and self.chosen[step] < at:
                    raise SourceError(
                        f"{self.topic}: step {step} stands before the first whole frame", code="no_keyframe"
                    )
                while step < len(self.chosen) and self.chosen[step] == at:
                    yield frame
                    step += 1
                if step == len(self.chosen):
                    return


def _image(channel: Channel, data: bytes) -> np.ndarray:
    return decode_rgb(_coded(channel, data)) if channel.kind in _CODED else _raw(channel, data)


def _bytes(value: Any, topic: str) -> Any:
    """A message's bytes; JSON has them as base64."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            raise SourceError(f"{topic}: an image is no base64", code="bad_image") from None
    if isinstance(value, np.ndarray) and value.dtype.itemsize == 1:
        return np.ascontiguousarray(value).data.cast("B")
    raise SourceError(f"{topic}: an image has no bytes", code="bad_image")


_READERS: dict[tuple[Channel, tuple[str, ...]], Callable[[Any], list[Any]]] = {}


def _read(channel: Channel, data: bytes, paths: tuple[str, ...]) -> list[Any]:
    if (channel, paths) not in _READERS:
        if len(_READERS) > 64:
            _READERS.clear()
        _READERS[channel, paths] = codec(channel).reader(paths)
    return _READERS[channel, paths](data)


def _coded(channel: Channel, data: bytes) -> Any:
    found = _bytes(_read(channel, data, ("data",))[0], channel.topic)
    if channel.encoding != "json":
        paths = {leaf.path for leaf in codec(channel).leaves(data)}
        if "format" in paths and "compressedDepth" in str(_read(channel, data, ("format",))[0]):
            raise SourceError(f"{channel.topic} holds depth, which is no colour camera", code="bad_image")
    return found


def _raw(channel: Channel, data: bytes) -> np.ndarray:
    height, width, encoding, step, pixels = _read(channel, data, _FIELDS)
    height, width, step = (int(value or 0) for value in (height, width, step))
    count = _CHANNELS.get(encoding or "")
    if count is None:
        what = "depth or 16 bits" if str(encoding) in ("16UC1", "32FC1", "mono16") else "no encoding that is read"
        raise SourceError(
            f"{channel.topic} has images of {encoding!r}: {what}, as 8-bit RGB",
            code="bad_image",
            fix=f"record rgb8, or map the bytes as they are: columns: {{NAME: {channel.topic}.data}}",
        )
    if not 0 < height * width <= _PIXELS or step < width * count:
        raise SourceError(
            f"{channel.topic}: an image declares {width}x{height} pixels, {step} bytes a row", code="bad_image"
        )
    rows = np.frombuffer(_bytes(pixels, channel.topic), np.uint8)
    if len(rows) < height * step:
        raise SourceError(f"{channel.topic}: an image of {len(rows)} bytes, not {height} x {step}", code="bad_image")
    frame = rows[: height * step].reshape(height, step)[:, : width * count].reshape(height, width, count)
    if count == 1:
        return np.repeat(frame, 3, axis=2)
    if count == 4 and (frame[..., 3] != 255).any():
        raise SourceError(f"{channel.topic}: an image is partly transparent", code="bad_image")
    return np.ascontiguousarray(frame[..., 2::-1] if encoding in ("bgr8", "bgra8") else frame[..., :3])


def _video(channel: Channel, bag: Bag, where: Sequence[Where] | Iterator[Where]) -> Iterator[tuple[int, np.ndarray]]:
    """(message, its frame) of coded video: each message is one picture, and none is shown before one that came earlier.

    What stands before the first keyframe cannot be decoded and is passed over.
    """
    import av

    decoder: Any = None
    begun = False
    try:
        for at, place in enumerate(where):
            how, coded = _read(channel, bag.load(place), ("format", "data"))
            if decoder is None:
                if how not in _DECODERS:
                    raise SourceError(f"{channel.topic} has video of {how!r}, which is not read", code="bad_image")
                decoder = av.CodecContext.create(_DECODERS[how], "r")
                decoder.thread_count = 1
            packet = av.Packet(bytes(_bytes(coded, channel.topic)))
            packet.pts = packet.dts = at
            try:
                frames = decoder.decode(packet)
            except av.error.InvalidDataError:
                if begun:
                    raise
                continue
            for frame in frames:
                begun = True
                yield frame.pts, frame.to_ndarray(format="rgb24")
        if decoder is not None:
            for frame in decoder.decode(None):
                yield frame.pts, frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise SourceError(f"{channel.topic}: its video is damaged: {error.strerror}", code="bad_image") from None
