from __future__ import annotations

import sys

import pytest

from data_engine.errors import SourceError
from data_engine.formats.bag.decode import decoder
from data_engine.formats.bag.definitions import Field, Leaf, leaves, parse, standard

TEXT = """
# a comment
uint8 RED=1
string NAME=#no comment, "quoted" = 'too'
std_msgs/Header header   # said twice
float64[] position
Inner[3] inner
geometry_msgs/msg/Point[<=4] points
string<=10[<=5] words
int32 count 7
byte[2] pair
time when
================================================================================
MSG: pkg/Inner
float32 a
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: geometry_msgs/Point
float64 x
float64 y
"""


def test_every_kind_of_line() -> None:
    types = parse(TEXT, "pkg/msg/Root", 1)
    assert types["pkg/Root"] == (
        Field("header", "std_msgs/Header"),
        Field("position", "float64", -1),
        Field("inner", "pkg/Inner", 3),
        Field("points", "geometry_msgs/Point", -1),
        Field("words", "string", -1),
        Field("count", "int32"),
        Field("pair", "int8", 2),
        Field("when", "time"),
    )
    assert list(leaves(types, "pkg/Root")) == [
        Leaf("header.stamp", "int64", None, True),
        Leaf("header.frame_id", "string"),
        Leaf("position", "float64", -1),
        Leaf("words", "string", -1),
        Leaf("count", "int32"),
        Leaf("pair", "int8", 2),
        Leaf("when", "int64", None, True),
    ]
    assert parse(TEXT, "pkg/msg/Root", 2)["pkg/Root"][6] == Field("pair", "byte", 2)


HOSTILE = [
    "float64 __import__('os').system('touch /tmp/never')",
    "float64 x\n) ; import os #",
    "uint8 X=__import__('os').system('touch /tmp/never')\nfloat64 x[",
    "float64] x",
    "Root again",  # holds itself
    "Inner[] a\n" + "=" * 80 + "\nMSG: pkg/Inner\nRoot[] b",
    "Nowhere x",
    "float64[99999999999] x",
    "float64[-1] x",
    "IDL: pkg/Root",
    "float64 ünicode",
    "float64 x y z" * 3 + "\n]",
    "a" * (2 << 20),
    "uint8 x\n" * 20_000,
    "".join(f"T{i + 1} x\n{'=' * 80}\nMSG: pkg/T{i + 1}\n" for i in range(40)) + "uint8 y",  # deeper than allowed
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_definitions_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(SourceError) as raised:
        parse(text, "pkg/msg/Root", 2)
    assert raised.value.code == "bad_definition"
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["__class__", "__init__", "self", "import", "lambda", "exec", "None", "np", "values"])
def test_a_field_may_be_called_anything(name: str) -> None:
    types = parse(f"uint8 before\nuint16 {name}", "pkg/msg/__import__", 1)
    assert decoder(types, "pkg/msg/__import__", [name], False)(b"\1\2\0") == [2]


def test_no_code_is_made_of_a_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    for name in ("exec", "eval", "compile"):
        monkeypatch.setattr(f"builtins.{name}", lambda *_, name=name: ran.append(name))
    types = parse(TEXT + " ", "pkg/msg/Root", 1)
    read = decoder(types, "pkg/msg/Root", ["count"], False)
    with pytest.raises(SourceError):
        read(b"\0" * 8)
    monkeypatch.undo()
    assert ran == []
    assert "rosbags.serde" not in {name for name in sys.modules if name.startswith("data_engine")}


def test_a_definition_that_would_hold_the_world_costs_nothing() -> None:
    levels = 30
    text = "".join(
        "\n".join(f"T{i + 1} f{j}" for j in range(10)) + f"\n{'=' * 80}\nMSG: pkg/T{i + 1}\n" for i in range(levels)
    )
    types = parse(text + "uint8 y", "pkg/msg/Root", 1)
    assert len(list(leaves(types, "pkg/Root"))) == 4096  # of 10 ** 30
    with pytest.raises(SourceError, match=r"does not fit|shorter"):
        decoder(types, "pkg/Root", ["f9.f9." + ".".join(["f0"] * (levels - 2)) + ".y"], False)(b"\0" * 100)
    arrays = f"T1[99999999] f\nuint8 z\n{'=' * 80}\nMSG: pkg/T1\nT2[99999999] f\n{'=' * 80}\nMSG: pkg/T2\n"
    for cdr in (False, True):
        for last in ("uint8 y", "string y", ""):
            read = decoder(parse(arrays + last, "pkg/msg/Root", 2), "pkg/msg/Root", ["z"], cdr)
            with pytest.raises(SourceError):
                read(b"\0\1\0\0" + b"\0" * 100)


def test_standard_types_are_known_by_name_alone() -> None:
    text, release = standard("sensor_msgs/msg/JointState")
    assert "float64[] position" in text and release == "humble"
    assert standard("sensor_msgs/msg/JointState", "foxy")[1] == "foxy"
    assert standard("sensor_msgs/msg/JointState", "'; import os")[1] == "humble"
    assert standard("my_robot/msg/Nothing") is None
