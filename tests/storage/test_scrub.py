from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.scrub import ERASED, Traces

GONE, HERE = "ep_" + "a" * 20, "ep_" + "b" * 20
TRACES = Traces(frozenset({GONE}), {"arms": ["demo_1", "7"]}, ["Jo", "Ann Lee", 'say "hi"'])


@pytest.mark.parametrize(
    ("before", "dataset", "after"),
    [
        (f"{GONE} and {HERE}", None, f"{ERASED} and {HERE}"),
        ("operator = 'Jo'", None, f"operator = '{ERASED}'"),
        ("Join Jo at Jo's", None, "Join Jo at Jo's"),  # too short a word to be sure of, but in quotes
        ("Ann Lee, Ann Leery", None, f"{ERASED}, Ann Leery"),
        ("demo_1 demo_10", "arms", f"{ERASED} demo_10"),
        ("demo_1", "hands", "demo_1"),
        ("data/demo_1.parquet", "arms", f"data/{ERASED}.parquet"),
        ("step 7 of 77", "arms", "step 7 of 77"),
        (None, "arms", None),
        ("nothing", "arms", "nothing"),
    ],
)
def test_only_what_was_theirs_is_taken_out_of_a_text(before, dataset, after) -> None:
    assert TRACES.text(before, dataset) == after


def test_json_keeps_its_form() -> None:
    document = {
        "quarantined": [{"key": "7", "code": "x"}, {"key": "8"}],
        "Ann Lee": 7,
        "streams": {"demo_1/front": {"frames": 3}, "demo_2/front": {}},
        "where": 'task = "say \\"hi\\""',
        "said": 'say "hi"',
        "version": "17",
    }
    cleaned = json.loads(TRACES.text(json.dumps(document), "arms") or "")
    assert cleaned["quarantined"] == [{"key": ERASED, "code": "x"}, {"key": "8"}]
    assert cleaned["streams"] == {"demo_2/front": {}} and cleaned["said"] == ERASED
    assert cleaned["Ann Lee"] == 7 and cleaned["version"] == "17"  # a document's own entries are its form


def test_rows_go_by_any_column_that_names_an_episode() -> None:
    table = pa.table({"unit_id": [GONE, HERE, None], "value": [1, 2, 3]})
    assert TRACES.rows(table)["value"].to_pylist() == [2, 3]
    same = table.slice(1)
    assert TRACES.rows(same) is same
    named = [[HERE, HERE], [GONE, HERE], [HERE, GONE], None]
    items = [None if names is None else [{"episode_id": name, "start": 3} for name in names] for names in named]
    pairs = pa.table({"items": items, "probability": [0.0, 0.5, 1.0, None]})
    assert TRACES.rows(pairs)["probability"].to_pylist() == [0.0, None]
    other = pa.table({"name": [GONE]})
    assert TRACES.rows(other) is other


def test_a_table_without_traces_is_left_alone() -> None:
    table = pa.table({"reason": ["x", None], "dataset": ["arms", "hands"]})
    assert TRACES.texts(table, ["reason"], "dataset") is table
    table = pa.table({"reason": ["demo_1", "demo_1"], "dataset": ["arms", "hands"]})
    assert TRACES.texts(table, ["reason"], "dataset")["reason"].to_pylist() == [ERASED, "demo_1"]


@settings(max_examples=50)
@given(st.text(max_size=30), st.text(alphabet="abz _.-\"'\\é", min_size=1, max_size=8), st.text(max_size=30))
def test_a_quoted_word_never_stays(before: str, word: str, after: str) -> None:
    found = Traces(frozenset(), {}, [word])
    text = json.dumps([f"{before}'{word}'{after}", word], ensure_ascii=False)
    cleaned = found.text(text)
    assert cleaned is not None and json.loads(cleaned)[1] == ERASED and f"'{word}'" not in json.loads(cleaned)[0]
