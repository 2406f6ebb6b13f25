from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats.tf_example import Example
from tests.data_engine.formats.rlds_sets import ProtoExample, proto_values

LISTS = st.one_of(
    st.lists(st.binary(max_size=9), max_size=5),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9),
    st.lists(st.integers(0, 1), max_size=9),
    st.lists(st.floats(width=32), max_size=9),
)


def built(values: dict[str, list]):
    example = ProtoExample()
    for name, items in values.items():
        feature = example.features.feature[name]
        kind = {bytes: feature.bytes_list, float: feature.float_list}.get(
            type(next(iter(items), 0)), feature.int64_list
        )
        kind.value.extend(items)
    return example


@settings(max_examples=60, deadline=None)
@given(values=st.dictionaries(st.text(max_size=5), LISTS, max_size=5))
def test_any_example_decodes_as_protobuf_decodes_it(values: dict[str, list]) -> None:
    data = built(values).SerializeToString()
    example = Example(data)
    expected = proto_values(data)
    assert expected.keys() == values.keys()
    assert sorted(example.names) == sorted(expected)
    assert "another" in expected or example.get("another") == []
    for name, items in expected.items():
        found = example.get(name)
        if isinstance(found, np.ndarray):
            assert found.dtype in (np.int64, np.float32)
            np.testing.assert_array_equal(found, np.asarray(items, found.dtype))
        else:
            assert list(map(bytes, found)) == items


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 129, 16382, 16383, 16384, 70_000])
def test_lengths_of_one_two_and_three_bytes(size: int) -> None:
    text, numbers = bytes(range(256)) * (size // 256) + bytes(size % 256), list(range(size))
    data = built({"n" * (size % 300): [text, b"", text], "integers": numbers, "flags": [1] * size}).SerializeToString()
    found = Example(data)
    assert list(map(bytes, found.get("n" * (size % 300)))) == [text, b"", text]
    assert list(found.get("integers")) == numbers
    assert list(found.get("flags")) == [1] * size


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def wrapped(feature: bytes, name: bytes = b"x", extra: bytes = b"") -> bytes:
    return field(1, field(1, field(1, name) + field(2, feature)) + extra)


@pytest.mark.parametrize(
    "feature",
    [
        field(2, b"\x0d" + np.float32(1.5).tobytes() + b"\x0d" + np.float32(-2).tobytes()),  # not packed
        field(3, b"\x08\x05\x08" + varint(2**40)),
        field(3, field(1, b"\x05") + field(1, varint(2**40))),  # packed in two pieces
        field(3, field(1, b"\x05")) + field(3, field(1, varint(300))),  # the list itself in two pieces
        field(3, field(1, b"\x05")) + field(1, field(1, b"last kind counts")),
        field(9, b"unknown") + field(1, field(1, b"a") + field(7, b"unknown") + field(1, b"b")),
        b"",
        field(2, b""),
    ],
)
def test_unusual_but_legal_encodings(feature: bytes) -> None:
    data = wrapped(feature, extra=b"\x28\x01\x31" + b"8 bytes!" + b"\x3d" + b"four")
    (expected,) = proto_values(data).values()
    found = Example(data).get("x")
    assert (found.tolist() if isinstance(found, np.ndarray) else list(map(bytes, found))) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x05abc",  # reaches beyond its message
        b"\x0a",
        b"\x80" * 20,
        b"\x0b",  # a group
        wrapped(field(2, field(1, b"abc"))),  # three bytes of floats
        wrapped(field(3, field(1, b"\x80"))),  # a number that does not end
        wrapped(field(3, field(1, b"\x80" * 11 + b"\x01"))),
        wrapped(b"", name=b"\xff\xfe"),
        field(1, field(1, field(1, b"\xff") + field(1, b"x") + field(2, b""))),  # a name said twice, once wrongly
    ],
)
def test_what_is_no_example_says_so(data: bytes) -> None:
    with pytest.raises(SourceError) as raised:
        example = Example(data)
        example.get("x")
    assert raised.value.code == "damaged_example"


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=60), at=st.integers(0, 200), byte=st.integers(0, 255))
def test_damage_never_ends_in_anything_but_a_clear_error(data: bytes, at: int, byte: int) -> None:
    good = bytearray(built({"a": [1, 500, -1], "b": [1.5], "c": [b"text", b""]}).SerializeToString())
    good[at % len(good)] = byte
    for content in (data, bytes(good)):
        try:
            example = Example(content)
            for name in example.names:
                example.get(name)
        except SourceError as error:
            assert error.code == "damaged_example"
