"""Honest chunks pass, whatever codec and content; what unpacks to more than it declares is refused unopened."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats.unpacked import DEFLATE_RATIO, SPARE_BYTES, refuse_bomb
from tests.hostile import zeros

CODECS = {
    "zlib": numcodecs.Zlib(9), "gzip": numcodecs.GZip(9), "bz2": numcodecs.BZ2(9), "lzma": numcodecs.LZMA(),
    "zstd": numcodecs.Zstd(9), "blosc": numcodecs.Blosc("lz4", 9), "lz4": numcodecs.LZ4(),
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(codec=st.sampled_from(sorted(CODECS)), size=st.integers(1, 200_000), noise=st.booleans())
def test_an_honest_chunk_passes(codec: str, size: int, noise: bool) -> None:
    values = np.random.default_rng(size).bytes(size) if noise else bytes(size)
    refuse_bomb(bytes(CODECS[codec].encode(values)), codec, size, "x")


@pytest.mark.parametrize("codec", sorted(CODECS.keys() - {"zlib", "gzip"}))
def test_a_chunk_that_comes_to_more_is_refused(codec: str) -> None:
    data = bytes(CODECS[codec].encode(bytes(20 << 20)))
    refuse_bomb(data, codec, 20 << 20, "x")
    with pytest.raises(SourceError, match="unpacks to more than the 1000 bytes declared"):
        refuse_bomb(data, codec, 1000, "x")


def test_deflated_zeros_are_measured_where_they_may_come_to_much() -> None:
    small = zeros(SPARE_BYTES // 2)
    refuse_bomb(small, "zlib", len(small), "x")  # at most SPARE_BYTES
    large = zeros(3 * SPARE_BYTES)
    assert len(large) * DEFLATE_RATIO > SPARE_BYTES
    with pytest.raises(SourceError, match="unpacks to more"):
        refuse_bomb(large, "zlib", len(large), "x")
    with pytest.raises(SourceError, match="unpacks to more"):
        refuse_bomb(large, "gzip", 240, "x")  # larger packed than it may be unpacked


def test_unknown_codecs_and_damage_are_left_to_whoever_unpacks() -> None:
    refuse_bomb(b"x" * 10**6, "", 10, "x")
    for codec in CODECS:
        refuse_bomb(b"\0\0\0\0\0\0\0\0", codec, 100, "x")
