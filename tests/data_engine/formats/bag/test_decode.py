"""Every standard message type, filled at random by ``rosbags``, read back field by field."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rosbags.interfaces import Nodetype

from data_engine.errors import SourceError
from data_engine.formats.bag.decode import decoder
from data_engine.formats.bag.definitions import leaves, parse
from tests.data_engine.formats.bag.bag_sets import ROS1, ROS2, SECOND, joints

STORES = {"ros1": ROS1, "cdr": ROS2}
DTYPES = {"byte": "u1", "char": "u1", "octet": "u1", "bool": "?"}


def filled(store, desc, rng, depth=0):
    kind, what = desc
    if kind == Nodetype.BASE:
        name = what[0]
        if name == "string":
            return "".join(rng.choice(list("abä/ 0€"), rng.integers(0, 6)))
        dtype = np.dtype(DTYPES.get(name, name))
        if dtype.kind == "b":
            return bool(rng.integers(2))
        if dtype.kind == "f":
            return float(rng.normal()) if dtype.itemsize == 8 else float(np.float32(rng.normal()))
        info = np.iinfo(dtype)
        return (
            int(rng.integers(info.min, info.max, dtype=dtype, endpoint=True))
            if name != "byte"
            else int(rng.integers(127))
        )
    if kind == Nodetype.NAME:
        return message(store, what, rng, depth + 1)
    inner, count = what
    n = count if kind == Nodetype.ARRAY else int(rng.integers(0, 4)) if depth < 4 else 0
    items = [filled(store, inner, rng, depth + 1) for _ in range(n)]
    if inner[0] == Nodetype.BASE and inner[1][0] != "string":
        return np.array(items, DTYPES.get(inner[1][0], inner[1][0]))
    return items


def message(store, name, rng, depth=0):
    fields = {field: filled(store, desc, rng, depth) for field, desc in store.fielddefs[name][1]}
    if name.startswith("builtin_interfaces"):
        fields = {"sec": int(rng.integers(0, 2**31 - 1)), "nanosec": int(rng.integers(0, SECOND))}
    return store.types[name](**fields)


def value(found, path):
    for part in path.split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part, getattr(found, f"{part}_", None))
    if hasattr(found, "nanosec"):
        return found.sec * SECOND + found.nanosec
    return found


def same(ours, theirs) -> bool:
    if isinstance(theirs, np.ndarray):
        return isinstance(ours, np.ndarray) and np.array_equal(ours, theirs)
    if isinstance(theirs, list):
        return list(ours) == theirs
    return ours == theirs or (isinstance(ours, float) and math.isclose(ours, theirs, rel_tol=1e-7))


@pytest.mark.parametrize("encoding", STORES)
def test_every_standard_type_reads_back_whole(encoding: str) -> None:
    store, rng = STORES[encoding], np.random.default_rng(0)
    checked = 0
    for name in sorted(store.fielddefs):
        fields = store.fielddefs[name][1]
        if name.startswith("builtin_interfaces") or "/msg/" not in name or "wstring" in str(fields):
            continue
        text = store.generate_msgdef(name, ros_version=1 if encoding == "ros1" else 2)[0]
        types = parse(text, name, 1 if encoding == "ros1" else 2)
        made = message(store, name, rng)
        if encoding == "ros1":
            data = bytes(store.serialize_ros1(made, name))
        else:
            data = bytes(store.serialize_cdr(made, name, little_endian=bool(rng.integers(2))))
        paths = [leaf.path for leaf in leaves(types, name) if not (leaf.time and leaf.length is not None)]
        found = decoder(types, name, paths, encoding == "cdr")(data)
        for path, ours in zip(paths, found, strict=True):
            assert same(ours, value(made, path)), (name, path)
            alone = decoder(types, name, [path], encoding == "cdr")(data)[0]  # all before it stepped over
            assert same(alone, value(made, path)), (name, path)
            checked += 1
    assert checked > 600


@pytest.mark.parametrize("encoding", STORES)
def test_entries_of_arrays_of_messages(encoding: str) -> None:
    store, rng = STORES[encoding], np.random.default_rng(1)
    name = "trajectory_msgs/msg/JointTrajectory"
    made = message(store, name, rng)
    while len(made.points) < 2 or not len(made.points[1].positions):
        made = message(store, name, rng)
    types = parse(store.generate_msgdef(name, ros_version=1 if encoding == "ros1" else 2)[0], name, 1)
    data = bytes(store.serialize_ros1(made, name) if encoding == "ros1" else store.serialize_cdr(made, name))
    paths = ["points.1.positions", "joint_names", "points.0.time_from_start", "points.9.positions"]
    found = decoder(types, name, paths, encoding == "cdr")(data)
    for path, ours in zip(paths[:3], found, strict=False):
        assert same(ours, value(made, path))
    assert found[3] is None


@pytest.mark.parametrize("encoding", STORES)
def test_a_message_cut_anywhere_is_refused_or_whole(encoding: str) -> None:
    store, name = STORES[encoding], "sensor_msgs/msg/JointState"
    made = joints([1.0, 2.0, 3.0])(store)
    data = bytes(store.serialize_ros1(made, name) if encoding == "ros1" else store.serialize_cdr(made, name))
    types = parse(store.generate_msgdef(name, ros_version=1 if encoding == "ros1" else 2)[0], name, 1)
    read = decoder(types, name, ["effort", "position"], encoding == "cdr")
    assert read(data)[1].tolist() == [1.0, 2.0, 3.0]
    for size in range(len(data) - 3):
        with pytest.raises(SourceError) as raised:
            read(data[:size])
        assert raised.value.code == "bad_message"
    for at in range(len(data)):  # any byte may be anything
        for byte in (0, 255):
            try:
                read(data[:at] + bytes([byte]) + data[at + 1 :])
            except SourceError as error:
                assert error.code == "bad_message"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "has no field 'nothing'; it has header, name"),
        ("header", "is no value but a std_msgs/Header"),
        ("position.0", "is a value and has no parts"),
        ("header.stamp.sec", "is a value and has no parts"),
    ],
)
def test_a_path_that_is_not_there_says_what_is(path: str, message: str) -> None:
    name = "sensor_msgs/msg/JointState"
    types = parse(ROS2.generate_msgdef(name, ros_version=2)[0], name, 2)
    with pytest.raises(SourceError, match=message):
        decoder(types, name, [path], True)


def test_other_encapsulations_are_refused() -> None:
    types = parse("uint8 a", "pkg/msg/A", 2)
    assert decoder(types, "pkg/msg/A", ["a"], True)(b"\0\1\0\0\7") == [7]
    for head in (b"\0\3\0\0", b"\1\1\0\0", b"\0\7\0\0", b"\0"):
        with pytest.raises(SourceError, match="plain CDR"):
            decoder(types, "pkg/msg/A", ["a"], True)(head + b"\7")
