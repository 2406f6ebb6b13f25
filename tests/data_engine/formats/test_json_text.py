from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.formats import json_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda v: st.lists(v, max_size=3), max_leaves=5
)
CODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])


@given(VALUES, CODINGS, st.booleans())
def test_a_document_says_the_same_in_every_coding(value: object, coding: str, escaped: bool) -> None:
    assert json_text.loads(json.dumps(value, ensure_ascii=escaped).encode(coding)) == value


@given(st.lists(VALUES, max_size=4), CODINGS, st.sampled_from(["\n", "\r\n", "\n\n \n"]))
def test_lines_end_with_a_line_feed_and_with_nothing_else(values: list[object], coding: str, end: str) -> None:
    text = "".join(json.dumps(value, ensure_ascii=False) + end for value in values)
    assert json_text.lines(text.encode(coding)) == values


@pytest.mark.parametrize("data", [b'"a \\ud83d"', b'"a \xed\xa0\xbd"', '"a \\ud83d"'.encode("utf-16"), '"a \\uD83D"'])
def test_half_an_emoji_is_spelt_out(data: bytes | str) -> None:
    assert json_text.loads(data) == "a \\ud83d"


def test_a_whole_emoji_is_whole_however_it_is_written() -> None:
    assert json_text.loads(b'"\\ud83d\\ude00"') == json_text.loads('"😀"'.encode()) == "😀"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        json_text.loads(data)


def test_a_line_is_named() -> None:
    with pytest.raises(ValueError, match="line 3 is not JSON"):
        json_text.lines(b"{}\n\n{\n")
