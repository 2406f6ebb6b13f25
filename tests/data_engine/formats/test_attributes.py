from __future__ import annotations

import json

import numpy as np

from data_engine.canonical import canonical_json
from data_engine.formats.attributes import parse, pick, plain


def test_plain_values_are_json() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.array([1.0, np.nan]),
        3: b"text\xff",
        "cut \ud83d": "\udcff",
        "d": (np.int64(2), None),
        "e": {1},
    }
    found = plain(value)
    assert found == {"a": 0.5, "b": [1.0, None], "3": "text\\xff", "cut \\ud83d": "\\xff", "d": [2, None], "e": "{1}"}
    canonical_json(found).encode()


def test_fields_are_picked_and_the_rest_stays() -> None:
    attributes = {"task": "push", "success": 1, "lang": ["push it"], "scene": 4, "weight": 2}
    assert pick(attributes) == {"task": "push", "success": True, "language": ("push it",)}
    assert attributes == {"scene": 4, "weight": 2}
    meta = {"ep_meta": json.dumps({"lang": "open the drawer"}), "success": "yes"}
    assert pick(meta) == {"language": ("open the drawer",)}
    assert set(meta) == {"ep_meta", "success"}


def test_what_is_no_object_parses_to_nothing() -> None:
    assert parse('{"a": NaN}') == {"a": None}
    assert parse("[1]") == parse("{") == parse(3) == {}
