from __future__ import annotations

import bz2
import resource
import struct
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.bag.ranges import CHUNK_BYTES, Ranges, inflate

PACK = {
    "none": bytes,
    "bz2": bz2.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "": bytes,
}


@pytest.mark.parametrize("how", PACK)
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_what_was_packed_comes_out(how: str, size: int) -> None:
    data = (b"robot" * 20_000)[:size]
    assert inflate(PACK[how](data), how, size, "chunk") == data
    assert inflate(memoryview(PACK[how](data)), how, None, "chunk") == data


@pytest.mark.parametrize("how", PACK)
def test_another_size_than_declared_is_damage(how: str) -> None:
    for declared in (99_999, 100_001):
        with pytest.raises(SourceError) as raised:
            inflate(PACK[how](b"x" * 100_000), how, declared, "the chunk at byte 7")
        assert raised.value.code == "damaged_chunk"
        assert "the chunk at byte 7" in raised.value.message


@pytest.mark.parametrize("how", ["bz2", "lz4", "zstd"])
def test_a_bomb_is_not_set_off(how: str) -> None:
    bomb = PACK[how](bytes(256 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError):
        inflate(bomb, how, 1000, "chunk")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_frame_that_claims_terabytes_allocates_nothing() -> None:
    frame = struct.pack("<IB", 0xFD2FB528, 0b11100000) + struct.pack("<Q", 1 << 42) + b"\x01\x00\x00"
    with pytest.raises(SourceError):
        inflate(frame, "zstd", 1000, "chunk")
    with pytest.raises(SourceError, match="declares"):
        inflate(b"", "zstd", CHUNK_BYTES + 1, "chunk")


@pytest.mark.parametrize("how", ["bz2", "lz4", "zstd", "lzma"])
def test_noise_and_unknown_compression_are_damage(how: str) -> None:
    with pytest.raises(SourceError) as raised:
        inflate(b"\x01\x02noise" * 9, how, 10, "chunk")
    assert raised.value.code == "damaged_chunk"


def test_ranges_never_leave_the_file(tmp_path: Path, s3: str) -> None:
    import fsspec

    from data_engine.fs import options

    data = bytes(range(256)) * 9000
    (tmp_path / "a.bin").write_bytes(data)
    fsspec.filesystem("s3", **options(s3).fsspec).pipe_file(f"{s3}/a.bin", data)
    for source in (Source(str(tmp_path / "a.bin")), Source(f"{s3}/a.bin")):
        ranges = Ranges(source)
        assert ranges.size == len(data)
        for start, size in ((0, 5), (3, 9), (2_000_000, 304_000), (len(data) - 4, 4), (10, 0), (1, len(data) - 1)):
            assert ranges.read(start, size) == data[start : start + size]
        for start, size in ((len(data), 1), (-1, 2), (0, len(data) + 1), (5, -1), (1 << 60, 1 << 60)):
            with pytest.raises(SourceError, match="ends before"):
                ranges.read(start, size)
        ranges.close()
        ranges.close()
