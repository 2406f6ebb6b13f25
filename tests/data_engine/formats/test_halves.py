from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from data_engine.formats.halves import is_text, spelt, spelt_out


@given(st.text(st.characters(categories=["L", "N", "P", "Cs"])))
def test_what_is_spelt_out_is_text_and_text_is_left_alone(text: str) -> None:
    spelt(text).encode()
    assert (spelt(text) == text) == is_text(text)


@given(st.binary())
def test_every_byte_of_a_name_can_be_told(name: bytes) -> None:
    assert spelt(os.fsdecode(name)) == name.decode("utf-8", "backslashreplace")


def test_a_document_is_spelt_out_in_its_keys_too() -> None:
    assert spelt_out({"\ud83d": ["\udcff", 1, None]}) == {"\\ud83d": ["\\xff", 1, None]}
    assert is_text("a", "é") and not is_text("a", "\ud800")
