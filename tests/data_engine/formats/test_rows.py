from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats.arrays import BLOCK_BYTES, Spec
from data_engine.formats.rows import Entries, Held, Kept, Span, block_rows


class Counted(Held):
    reads = 0

    def read(self, start: int, stop: int) -> np.ndarray:
        self.reads += 1
        return super().read(start, stop)


@given(n=st.integers(1, 40), step=st.integers(1, 12), data=st.data())
def test_cuts_of_cuts_are_numpys(n: int, step: int, data: st.DataObject) -> None:
    values = np.arange(n * 6).reshape(n, 2, 3)
    first = data.draw(st.integers(0, n))
    last = data.draw(st.integers(first, n))
    start = data.draw(st.integers(0, last - first))
    stop = data.draw(st.integers(start, last - first))
    rows = Span(Kept(Held("a", values), step), first, last)
    assert len(rows) == last - first
    np.testing.assert_array_equal(rows.read(start, stop), values[first:last][start:stop])
    np.testing.assert_array_equal(
        Entries(rows, 1, 4).read(start, stop), values[first:last][start:stop].reshape(-1, 6)[:, 1:4]
    )


def test_neighbours_in_a_chunk_decode_it_once() -> None:
    rows = Counted("a", np.arange(100))
    kept = Kept(rows, 25)
    for start in range(0, 100, 5):
        np.testing.assert_array_equal(kept.read(start, start + 5), np.arange(start, start + 5))
    assert rows.reads == 4


@given(size=st.integers(1, 10**7), chunk=st.integers(1, 1000), dtype=st.sampled_from(["uint8", "float64", "string"]))
def test_a_block_is_whole_chunks_of_about_eight_megabytes(size: int, chunk: int, dtype: str) -> None:
    count, width = block_rows(Spec(dtype, (size,)), chunk), {"uint8": 1, "float64": 8, "string": 16}[dtype]
    assert count % chunk == 0
    assert count == chunk or count * size * width <= BLOCK_BYTES


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (3, 3), (-1, 2)])
def test_entries_stay_inside(start: int, stop: int) -> None:
    with pytest.raises(SourceError, match="leaves its 6 entries"):
        Entries(Held("a", np.zeros((2, 2, 3))), start, stop)
