from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats.tfrecord import RecordFile
from tests.data_engine.formats.rlds_sets import record, records


def opened(content: bytes, size: int | None = None) -> RecordFile:
    return RecordFile(io.BytesIO(content), len(content) if size is None else size)


def code(file: RecordFile, index: int) -> str:
    with pytest.raises(SourceError) as raised:
        file.read(index)
    return raised.value.code


def test_records_that_tensorflow_wrote(shared_data: Path) -> None:
    path = shared_data / "bridge_rlds/1.0.0/bridge_dataset-train.tfrecord-00000-of-00001"
    content = path.read_bytes()
    with path.open("rb") as handle:
        file = RecordFile(handle, len(content))
        assert file.count() == 25
        assert [file.read(i) for i in range(25)] == list(records(content))


@settings(max_examples=50, deadline=None)
@given(datas=st.lists(st.binary(max_size=40), max_size=6), order=st.randoms())
def test_any_records_in_any_order(datas: list[bytes], order) -> None:
    file = opened(b"".join(map(record, datas)))
    numbers = [*range(len(datas)), *range(len(datas))]
    order.shuffle(numbers)
    assert [file.read(i) for i in numbers] == [datas[i] for i in numbers]
    assert file.count() == len(datas)
    assert code(file, len(datas)) == "absent_record"


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 3 * 26 - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found_and_spoils_no_more_than_it_must(at: int, bit: int) -> None:
    content = bytearray(b"".join(record(bytes([i]) * 10) for i in range(3)))
    content[at] ^= 1 << bit
    file, hit = opened(bytes(content)), at // 26
    in_header = at % 26 < 12
    for index in range(3):
        if index < hit or (index > hit and not in_header):
            assert file.read(index) == bytes([index]) * 10
        else:
            assert code(file, index) == ("damaged_length" if in_header else "damaged_record")


@pytest.mark.parametrize("cut", range(1, 26))
def test_a_file_that_ends_too_early(cut: int) -> None:
    file = opened((record(b"a" * 10) + record(b"b" * 10))[:-cut])
    assert file.read(0) == b"a" * 10
    assert code(file, 1) == code(file, 2) == "truncated"
    assert file.count() == 2


def test_a_huge_length_is_refused_before_it_is_allocated() -> None:
    header = struct.pack("<Q", 1 << 40)
    whole = header + record_checksum(header)
    assert code(opened(whole), 0) == "truncated"
    assert code(opened(whole, size=1 << 41), 0) == "too_large"


def record_checksum(part: bytes) -> bytes:
    return record(part)[-4:]
