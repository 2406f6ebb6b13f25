from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_engine.errors import SourceError
from data_engine.formats.npz_file import npz_arrays, read_npy


def opened(write: Callable[[io.BytesIO], None]) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    write(buffer)
    return zipfile.ZipFile(io.BytesIO(buffer.getvalue()))


def member(header: str, data: bytes, compression: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipFile:
    """An npz of one member ``a`` with a header as written here."""

    def write(buffer: io.BytesIO) -> None:
        text = header.encode().ljust(118) + b"\n"
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)

    return opened(write)


@settings(max_examples=40, deadline=None)
@given(
    values=hnp.arrays(
        st.sampled_from(["f4", ">f8", "i2", "u1", "?", "S3", "U4"]),
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
    ),
    fortran=st.booleans(),
    compressed=st.booleans(),
    data=st.data(),
)
def test_any_rows_are_numpys(values: np.ndarray, fortran: bool, compressed: bool, data) -> None:
    given_ = np.asfortranarray(values) if fortran else values
    save = np.savez_compressed if compressed else np.savez
    with opened(lambda buffer: save(buffer, a=given_)) as archive:
        found = npz_arrays(archive)["a"]
        start = data.draw(st.integers(0, len(values)))
        stop = data.draw(st.integers(start, len(values)))
        assert len(found) == len(values)
        np.testing.assert_array_equal(found.whole(), values)
        rows = found.read(start, stop)
        assert rows.shape == (stop - start, *values.shape[1:])
        np.testing.assert_array_equal(rows.astype(values.dtype), values[start:stop])


@settings(max_examples=20, deadline=None)
@given(values=hnp.arrays(st.sampled_from(["f4", "<i8"]), hnp.array_shapes(max_dims=3)), fortran=st.booleans())
def test_npy_files(values: np.ndarray, fortran: bool) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(values) if fortran else values)
    size = buffer.tell()
    buffer.seek(0)
    np.testing.assert_array_equal(read_npy(buffer, "a", size), values)


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (lambda: opened(lambda buffer: np.savez(buffer, a=np.array([{}], object))), "is pickled"),
        (lambda: member(HUGE, b""), "declares 8796093022208 bytes and holds 0"),
        (lambda: member("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", b"\0" * 8), "declares 16"),
        (lambda: member("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", b""), "declares the shape"),
        (lambda: member("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }", b"\0" * 8), "no column"),
        (lambda: member("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8), "complex64"),
        (lambda: member("__import__('os').system('true')", b""), "no npy file"),
    ],
)
def test_hostile_members_are_refused(archive, message: str) -> None:
    with archive() as found, pytest.raises(SourceError, match=message):
        npz_arrays(found)


def test_a_bomb_is_read_a_block_at_a_time() -> None:
    archive = member("{'descr': '|u1', 'fortran_order': False, 'shape': (100000000, 1), }", bytes(100_000_000))
    found = npz_arrays(archive)["a"]
    block = next(found.blocks(0, len(found)))
    assert block.nbytes <= 8 << 20


def test_of_two_arrays_of_one_name_neither_is_taken() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for value in (1.0, 2.0):
            content = io.BytesIO()
            np.save(content, np.full(3, value))
            archive.writestr("a.npy", content.getvalue())
    with zipfile.ZipFile(buffer) as archive, pytest.raises(SourceError, match="two arrays of one name"):
        npz_arrays(archive)
