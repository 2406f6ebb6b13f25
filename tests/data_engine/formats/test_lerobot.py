from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats.lerobot import attributes_of, components, fill


@pytest.mark.parametrize(
    ("names", "size", "expected"),
    [
        (["a", "b"], 2, ("a", "b")),
        ([["a", "b"]], 2, ("a", "b")),
        ({"motors": ["a", "b"]}, 2, ("a", "b")),
        ({"left": ["a"], "right": ["b"]}, 2, ("a", "b")),
        ({"b": 1, "a": 0}, 2, ("a", "b")),
        ([0, 1], 2, ("0", "1")),
        (["a", "b"], 3, None),
        (None, 2, None),
        ("ab", 1, ("ab",)),
    ],
)
def test_components_in_every_shape(names: Any, size: int, expected: tuple[str, ...] | None) -> None:
    assert components(names, size) == expected


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="{}.:!_[]()abcdef/0123456789key ", max_size=30))
def test_templates_fill_or_refuse(template: str) -> None:
    try:
        path = fill(template, key="a", episode=7)
    except SourceError:
        return
    assert ".." not in path.split("/")
    assert not path.startswith("/")


def test_templates_take_widths() -> None:
    assert fill("a/{key}/c-{episode:03d}/{{x}}.mp4", key="cam", episode=7) == "a/cam/c-007/{x}.mp4"


def test_attributes_leave_lerobots_own_columns_out() -> None:
    row = {"episode_index": 3, "tasks": ["a"], "length": 2, "stats/action/min": [0.0], "meta/episodes/file_index": 0}
    row |= {"success": 1, "operator": 7, "scene": ["not", "text"], "videos/a/from_timestamp": 0.0}
    found = attributes_of(row)
    assert found == {"success": True, "operator": "7", "attributes": {"scene": ["not", "text"]}}
    assert attributes_of({"success": "maybe"}) == {"attributes": {"success": "maybe"}}
