from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.arrays import is_numeric, to_array
from data_engine.errors import SourceError

MAYBE = st.none() | st.floats(-100, 100)


@given(st.lists(st.none() | st.lists(MAYBE, min_size=3, max_size=3)), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_lists_become_rows_and_nulls_nan_however_chunked(rows, chunks) -> None:
    parts = [pa.array(rows[i::chunks], pa.list_(pa.float64())) for i in range(chunks)]
    flat = [row for part in parts for row in part.to_pylist()]
    found = to_array(pa.chunked_array(parts))
    width = 3 if any(row is not None for row in flat) else 0
    expected = [[np.nan] * width if row is None else [np.nan if x is None else x for x in row] for row in flat]
    assert np.array_equal(found, np.array(expected, float).reshape(len(flat), width), equal_nan=True)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.bool_()])
def test_the_stored_type_stays(kind) -> None:
    scalars = pa.chunked_array([pa.array([0, 1, 1]).cast(kind)])
    assert to_array(scalars).tolist() == scalars.to_pylist()
    assert to_array(scalars).dtype == kind.to_pandas_dtype()
    fixed = pa.chunked_array([pa.FixedSizeListArray.from_arrays(pa.array([0, 1, 1, 0]).cast(kind), 2)])
    assert to_array(fixed).shape == (2, 2)
    assert to_array(fixed).dtype == kind.to_pandas_dtype()


def test_integers_and_flags_with_nulls_become_floats() -> None:
    assert np.array_equal(to_array(pa.chunked_array([[1, None]])), [1, np.nan], equal_nan=True)
    assert np.array_equal(to_array(pa.chunked_array([[True, None]])), [1, np.nan], equal_nan=True)


def test_uint64_comes_back_from_the_decimals_that_keep_it() -> None:
    kind, most = pa.decimal128(20, 0), 2**64 - 1
    scalars = pa.chunked_array([pa.array([Decimal(most), None, Decimal(1)], kind)])
    assert to_array(scalars, fill=True).tolist() == [most, 0, 1]
    assert to_array(scalars, fill=True).dtype == np.uint64
    assert np.isnan(to_array(scalars)).tolist() == [False, True, False]
    lists = pa.chunked_array([pa.array([[Decimal(most), Decimal(2)], None], pa.list_(kind))])
    assert to_array(lists, fill=True).tolist() == [[most, 2], [0, 0]]
    assert np.isnan(to_array(lists)).tolist() == [[False, False], [True, True]]
    assert not is_numeric(kind)  # measured by nobody: it counts or names things
    with pytest.raises(SourceError, match="below"):
        to_array(pa.chunked_array([pa.array([Decimal(2**64)], kind)]))


def test_what_is_no_array_is_said_to_be_none() -> None:
    for values in (["a"], [Decimal("1")], [b"x"]):
        assert not is_numeric(pa.array(values).type)
        with pytest.raises(SourceError, match="'note' holds"):
            to_array(pa.chunked_array([values]), "note")
    with pytest.raises(SourceError, match=r"'note' has \[1, 2\] values a step"):
        to_array(pa.chunked_array([[[1], [1, 2]]]), "note")
