from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from data_engine.model import PREFERENCES
from data_engine.preferences import Item, Preference, comparisons, parse, tally, unknown_columns

A, B, C = Item("ep_a"), Item("ep_b", 3, 9), Item("ep_c", 0, 4, "front")


@given(
    st.text("abcdef_/.[] 0123456789", min_size=1, max_size=12).filter(lambda text: text == text.strip()),
    st.none() | st.tuples(st.integers(0, 50), st.integers(1, 50)),
    st.none() | st.sampled_from(["front", "wrist.left", "a b"]),
)
@settings(max_examples=60, deadline=None)
def test_an_item_is_read_as_it_is_written(episode, span, camera):
    item = Item(episode, *((span[0], span[0] + span[1]) if span else (0, None)), camera)
    assert Item.parse(str(item)) == item


@pytest.mark.parametrize("text", ["", "ep_a:9-3", "ep_a:3-3"])
def test_what_names_no_steps_is_no_item(text):
    with pytest.raises(RequestError):
        Item.parse(text)


@pytest.mark.parametrize(
    ("row", "kind", "ranks", "probability"),
    [
        ({"first": "ep_a", "second": "ep_b", "verdict": "first"}, "pair", (0, 1), 0.0),
        ({"first": "ep_a", "second": "ep_b", "verdict": "second "}, "pair", (1, 0), 1.0),
        ({"first": "ep_a", "second": "ep_b", "verdict": 0}, "pair", (0, 1), 0.0),
        ({"first": "ep_a", "second": "ep_b", "verdict": 1.0}, "pair", (1, 0), 1.0),
        ({"first": "ep_a", "second": "ep_b", "verdict": -1}, "pair", None, None),
        ({"first": "ep_a", "second": "ep_b", "verdict": "tie"}, "pair", (0, 0), 0.5),
        ({"first": "ep_a", "second": "ep_b", "probability": "0.8"}, "pair", (1, 0), 0.8),
        ({"ranking": "ep_a > ep_b = ep_c"}, "ranking", (0, 1, 1), None),
        ({"ranking": ["ep_a", ["ep_b", "ep_c"]]}, "ranking", (0, 1, 1), None),
        ({"winner": "ep_b", "items": "ep_a; ep_b;ep_c"}, "winner", (1, 0, 1), None),
        ({"winner": "ep_b", "items": ["ep_a", "ep_c"]}, "winner", (0, 1, 1), None),
    ],
)
def test_every_form_comes_to_one(row, kind, ranks, probability):
    found = parse({**row, "annotator": "ann", "note": ""})
    assert (found.kind, found.ranks, found.probability, found.annotator) == (kind, ranks, probability, "ann")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "it has nothing"),
        ({"first": "ep_a", "second": "ep_b"}, "verdict '' is none"),
        ({"first": "ep_a", "second": "ep_b", "verdict": "better"}, "verdict 'better' is none"),
        ({"first": "ep_a", "second": "ep_a", "verdict": 0}, "1 of them distinct"),
        ({"first": "ep_a", "second": "ep_b", "probability": 1.5}, "not from 0 to 1"),
        ({"first": "ep_a", "second": "ep_b", "probability": float("nan")}, "not from 0 to 1"),
        ({"ranking": 7}, "ranking is no list"),
        ({"ranking": "ep_a"}, "1 items"),
        ({"winner": "ep_a", "items": 3}, "items is no list"),
    ],
)
def test_what_states_no_preference_is_refused_in_one_line(row, said):
    with pytest.raises(RequestError, match=said) as raised:
        parse(row)
    assert "\n" not in str(raised.value)
    assert unknown_columns(["first", "verdict", "mood"]) == ["mood"]


def test_rows_keep_everything():
    for one in (
        Preference.pair(A, C, 0.5, annotator="ann", task="t", flipped=False, answer="as good"),
        Preference((A, B, C), (0, 2, 1), "ranking", reviews="pf_x", contradicts=True, annotator_kind="model"),
        Preference.pair(A, B, None, reason="unsure"),
    ):
        table = pa.Table.from_pylist([one.row()], schema=PREFERENCES)
        assert set(one.row()) <= set(PREFERENCES.names)
        assert Preference.of_row(table.to_pylist()[0]) == one
    assert Preference.pair(A, B, 1.0).id != Preference.pair(B, A, 0.0).id  # shown in another order
    assert Preference.pair(A, B, 1.0).id == Preference.pair(A, B, 1.0, reason="r").id


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_ranking_is_all_its_pairs_and_each_item_counts_one(ranks):
    items = tuple(Item(f"ep_{i}") for i in range(len(ranks)))
    found = comparisons(Preference(items, tuple(ranks), "ranking"))
    at = dict(zip(items, ranks, strict=True))
    assert len(found) == len(ranks) * (len(ranks) - 1) // 2
    for pair in found:
        first, second = at[pair.first], at[pair.second]
        assert pair.probability == (0.5 if first == second else float(second < first))
    weight = {item: sum(p.weight for p in found if item in (p.first, p.second)) for item in items}
    assert all(abs(total - 1) < 1e-12 for total in weight.values())


def test_a_winner_says_nothing_of_its_rivals_and_the_undecided_nothing_at_all():
    found = comparisons(Preference((A, B, C), (1, 0, 1), "winner"))
    assert [(pair.first, pair.second, pair.probability) for pair in found] == [(A, B, 1.0), (B, C, 0.0)]
    assert comparisons(Preference.pair(A, B, None)) == []
    (soft,) = comparisons(Preference.pair(A, B, 0.7, task="t"))
    assert (soft.probability, soft.weight, soft.task) == (0.7, 1.0, "t")


def test_a_tally_counts_flips_and_contradictions_of_what_could_be_one():
    own = [Preference.pair(A, B, 1.0, flipped=False), Preference.pair(A, C, None, flipped=True),
           Preference.pair(B, C, 0.5, annotator="ann"), Preference.pair(B, C, None)]  # fmt: skip
    again = [Preference.pair(A, B, 0.0, reviews="x", contradicts=True, annotator="second"),
             Preference.pair(B, C, None, reviews="y", annotator="second")]  # fmt: skip
    found = tally("c", own + again)
    assert (found.preferences, found.decided, found.ties, found.undecided) == (4, 2, 1, 2)
    assert (found.flip_rate, found.contradiction_rate, found.reviewed) == (0.5, 1.0, 2)
    assert found.annotators == ("ann", "second", "unknown")
    assert tally("c", own[2:3]).flip_rate is None
