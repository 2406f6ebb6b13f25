from __future__ import annotations

import struct
from dataclasses import replace

import av
import numpy as np
import pytest

from data_engine.errors import SourceError
from data_engine.video import FrameReader, copy, copy_spans, mp4


def packets(path):
    """All that a demuxer says of a file's packets, and the stream's and the file's lengths."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = [
            (packet.pts, packet.dts, packet.duration, packet.is_keyframe, packet.is_discard, bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]
        extra = stream.codec_context.extradata
        return found, (stream.duration, stream.time_base, stream.frames, container.duration, stream.start_time, extra)


def muxed(spans, out, monkeypatch):
    """The same by FFmpeg's own muxer, a packet at a time."""
    with monkeypatch.context() as patch:
        patch.setattr(mp4, "write", lambda *_: False)
        copy_spans(spans, out)
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"g": "5", "bf": "2"},
        {"g": "1"},
        {"g": "6", "bf": "0"},
        {"g": "6", "bf": "2", "ticks": [100 * i + (17 * i) % 23 for i in range(24)]},
        {"codec": "libsvtav1", "g": "2"},
        {"codec": "mpeg4", "g": "4"},
    ],
    ids=["reordered", "key-frames", "plain", "variable-rate", "av1", "mpeg4"],
)
def test_the_same_packets_as_ffmpeg_muxes(make_video, tmp_path, monkeypatch, options):
    spans = [(make_video(f"{seed}.mp4", seed=seed, **options), 0.0, None) for seed in (0, 1)]
    spans.append(spans[0])
    monkeypatch.setattr(copy, "_mux", None)  # so that the tables are written here
    copy_spans(spans, tmp_path / "out.mp4")
    monkeypatch.undo()
    ours, lengths = packets(tmp_path / "out.mp4")
    theirs, expected = packets(muxed(spans, tmp_path / "muxed.mp4", monkeypatch))
    assert ours == theirs and lengths == expected


def test_the_tables_come_first_and_large_files_have_wide_ones(make_video, tmp_path, monkeypatch):
    spans = [(make_video(g="4", bf="2"), 0.0, None)] * 2
    copy_spans(spans, tmp_path / "short.mp4")
    data = (tmp_path / "short.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat") and b"stco" in data
    monkeypatch.setattr(mp4, "_LARGE", 1000)
    copy_spans(spans, tmp_path / "long.mp4")
    data = (tmp_path / "long.mp4").read_bytes()
    assert b"co64" in data and struct.pack(">I4s", 1, b"mdat") in data
    assert packets(tmp_path / "long.mp4") == packets(tmp_path / "short.mp4")
    with FrameReader(tmp_path / "long.mp4") as long, FrameReader(tmp_path / "short.mp4") as short:
        assert np.array_equal(long.at(long.times), short.at(short.times))


def test_packets_among_others_and_a_file_of_hours(make_video, tmp_path):
    """Runs of bytes end where others lie between; what 32 bits cannot count is FFmpeg's to write."""
    path = make_video(g="1")
    with FrameReader(path) as reader:
        cut, times = reader.cut(), reader.times
    some = np.arange(0, 24, 2)
    chosen = {name: getattr(cut.piece, name)[some] for name in ("at", "size", "dts", "pts", "key")}
    piece = replace(cut.piece, **chosen)
    header, scale = copy._header(cut, piece), cut.time_base.denominator
    assert mp4.write(header, [piece], 1000, scale, tmp_path / "some.mp4")
    with FrameReader(tmp_path / "some.mp4") as found, FrameReader(path) as reader:
        assert np.array_equal(found.times, times[some])
        assert np.array_equal(found.at(found.times), reader.at(times[some]))
    late = replace(piece, dts=piece.dts + 2**31, pts=piece.pts + 2**31)
    assert not mp4.write(header, [late], 1000, scale, tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_a_file_that_changes_between_index_and_copy_is_told(make_video, tmp_path, monkeypatch):
    path = make_video(g="1")
    write = mp4.write

    def cut(*args):
        path.write_bytes(path.read_bytes()[:-100] + b"x" * 99)
        return write(*args)

    monkeypatch.setattr(mp4, "write", cut)
    with pytest.raises(SourceError, match="changed"):
        copy_spans([(path, 0.0, None)], tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
