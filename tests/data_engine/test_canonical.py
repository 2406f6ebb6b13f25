from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.canonical import canonical_json, digest, round_significant, seal, unseal

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_round_trips_and_ignores_the_order_of_keys(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == text


def test_refuses_what_json_cannot_hold():
    with pytest.raises(ValueError):
        canonical_json({"a": math.nan})
    with pytest.raises(TypeError):
        canonical_json(object())
    assert canonical_json(np.float32(0.5)) == "0.5"
    assert canonical_json(np.arange(3)) == "[0,1,2]"


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_digests_of_unlike_parts_differ(first, second):
    assert (digest(*first) == digest(*second)) == (first == second)


def test_digest_keeps_parts_apart():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", length=16) == digest("a")[:16]


@pytest.mark.parametrize(
    ("value", "digits", "rounded"), [(1234567.0, 3, 1230000.0), (0.00012345, 2, 0.00012), (0.0, 6, 0.0)]
)
def test_rounds_to_significant_digits(value, digits, rounded):
    assert round_significant(value, digits) == rounded


def test_rounding_has_no_answer_for_what_is_not_finite():
    assert round_significant(math.nan) is None
    assert round_significant(math.inf) is None


VALUES = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())


@given(st.dictionaries(st.text(), VALUES), st.data())
def test_a_sealed_document_shows_any_other_byte(document, data):
    document = {**document, "n": 1}
    sealed = seal(document)
    assert unseal(sealed) == {name: value for name, value in document.items() if name != "seal"}
    assert seal(json.loads(sealed)) == sealed
    at = data.draw(st.integers(0, len(sealed) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="not what was written"):
        unseal(sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :])
    for cut in (b"", sealed[:-1], sealed[1:], b"{}"):
        with pytest.raises(ValueError, match="not what was written"):
            unseal(cut)
