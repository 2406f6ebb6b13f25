"""Encoded video: what a file really holds, any frame of it fast, and writing it without needless re-encoding.

One idea a file: :mod:`.track` indexes a file's coded packets, :mod:`.reader` decodes any frame from that index,
:mod:`.encode` turns raw frames into video once, :mod:`.copy` moves coded packets between files untouched, :mod:`.mp4`
writes the tables of what was moved, :mod:`.rewrap` makes an MP4 of another container. PyAV is imported when a file is
opened or written, so that importing this package needs numpy alone.
"""

from data_engine.video.copy import can_copy, copy_spans, join_cuts, stream_key, transcode_span
from data_engine.video.encode import Encoded, EncodeSettings, encode, encode_timed, frames_digest
from data_engine.video.reader import FrameReader
from data_engine.video.rewrap import Rewrapped, as_mp4, is_mp4
from data_engine.video.track import CannotCopy, Cut, VideoInfo

__all__ = [
    "CannotCopy", "Cut", "EncodeSettings", "Encoded", "FrameReader", "Rewrapped", "VideoInfo", "as_mp4", "can_copy",
    "copy_spans", "encode", "encode_timed", "frames_digest", "is_mp4", "join_cuts", "stream_key", "transcode_span",
]  # fmt: skip
