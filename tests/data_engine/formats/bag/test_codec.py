from __future__ import annotations

import json

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from data_engine.errors import SourceError
from data_engine.formats.bag.codec import Channel, codec
from data_engine.formats.bag.definitions import Leaf

DATA = {
    "timestamp": {"sec": 5, "nsec": 7},
    "pose": {"x": 1, "y": 2.5},
    "values": [1, 2, 3],
    "ok": True,
    "name": "ä",
    "points": [{"v": [1.5]}, {"v": [2.5]}],
    "odd": [1, "a"],
    "none": None,
}
JSON = Channel("/a", "pkg.A", "json", "jsonschema", b"{}")


def test_json_has_one_kind_of_number() -> None:
    sample = json.dumps(DATA).encode()
    found = codec(JSON)
    assert found.leaves(sample) == [
        Leaf("timestamp", "int64", None, True),
        Leaf("pose.x", "float64"),
        Leaf("pose.y", "float64"),
        Leaf("values", "float64", -1),
        Leaf("ok", "bool"),
        Leaf("name", "string"),
    ]
    paths = ["timestamp", "pose.x", "values", "ok", "name", "points.1.v", "points.9.v", "odd", "none", "away.far"]
    values = found.reader(paths)(sample)
    assert values[:2] == [5_000_000_007, 1.0] and values[2].tolist() == [1.0, 2.0, 3.0]
    assert values[3:5] == [True, "ä"] and values[5].tolist() == [2.5] and values[6:] == [None] * 4


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}", b"\xff\xfe\x00"])
def test_what_is_no_json_says_so(text) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(SourceError) as raised:
        codec(JSON).reader(["a"])(data)
    assert raised.value.code == "bad_message"


def schema() -> bytes:
    files = descriptor_pb2.FileDescriptorSet()
    time = files.file.add(name="google/protobuf/timestamp.proto", package="google.protobuf", syntax="proto3")
    stamp = time.message_type.add(name="Timestamp")
    stamp.field.add(name="seconds", number=1, type=3, label=1)
    stamp.field.add(name="nanos", number=2, type=5, label=1)
    own = files.file.add(name="a.proto", package="pkg", syntax="proto3", dependency=["google/protobuf/timestamp.proto"])
    inner = own.message_type.add(name="Inner")
    inner.field.add(name="x", number=1, type=2, label=1)
    inner.field.add(name="self", number=2, type=11, label=1, type_name=".pkg.Inner")
    outer = own.message_type.add(name="Outer")
    outer.field.add(name="timestamp", number=1, type=11, label=1, type_name=".google.protobuf.Timestamp")
    outer.field.add(name="values", number=2, type=1, label=3)
    outer.field.add(name="data", number=3, type=12, label=1)
    outer.field.add(name="inner", number=4, type=11, label=1, type_name=".pkg.Inner")
    outer.field.add(name="inners", number=5, type=11, label=3, type_name=".pkg.Inner")
    outer.field.add(name="text", number=6, type=9, label=1)
    outer.field.add(name="flag", number=7, type=8, label=1)
    return files.SerializeToString()


def test_protocol_buffers_by_the_schema_that_the_file_carries() -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(schema()).file:
        pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("pkg.Outer"))()
    made.timestamp.seconds, made.timestamp.nanos = 5, 7
    made.values.extend([1.5, 2.5])
    made.data, made.text, made.flag = b"\0\xff", "ä", True
    made.inner.x = 0.5
    made.inners.add().x = 2.0
    found = codec(Channel("/a", "pkg.Outer", "protobuf", "protobuf", schema()))
    sample = made.SerializeToString()
    leaves = {leaf.path: leaf for leaf in found.leaves(sample)}
    assert leaves["timestamp"] == Leaf("timestamp", "int64", None, True)
    assert leaves["values"] == Leaf("values", "float64", -1) and leaves["data"] == Leaf("data", "uint8", -1)
    assert leaves["inner.x"] == Leaf("inner.x", "float32") and leaves["inner.self.x"].dtype == "float32"
    assert found.leaf("inners.0.x", sample) == Leaf("inners.0.x", "float32")
    paths = ["timestamp", "values", "data", "inner.x", "inners.0.x", "inners.4.x", "text", "flag"]
    values = found.reader(paths)(sample)
    np.testing.assert_array_equal(values[1], [1.5, 2.5])
    np.testing.assert_array_equal(values[2], np.array([0, 255], np.uint8))
    assert [values[i] for i in (0, 3, 4, 5, 6, 7)] == [5_000_000_007, 0.5, 2.0, None, "ä", True]
    with pytest.raises(SourceError, match="has no field"):
        found.reader(["nothing"])(sample)
    with pytest.raises(SourceError, match=r"no field|no value"):
        found.leaf("inner", sample)
    with pytest.raises(SourceError, match="does not fit"):
        found.reader(["text"])(b"\xff\xff\xff")


@pytest.mark.parametrize("data", [b"", b"\xff" * 9, schema()])
def test_a_broken_schema_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match="schema is broken"):
        codec(Channel("/a", "pkg.Absent", "protobuf", "protobuf", data))


@pytest.mark.parametrize(
    ("encoding", "how"), [("cdr", "ros2idl"), ("cdr", ""), ("protobuf", ""), ("flatbuffer", "flatbuffer"), ("", "")]
)
def test_encodings_that_are_not_read_say_so(encoding: str, how: str) -> None:
    with pytest.raises(SourceError, match="not read"):
        codec(Channel("/a", "pkg/msg/A", encoding, how, b""))
