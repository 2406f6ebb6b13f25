from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import nan

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from flows.paging import _leading, page
from storage.lake import Lake
from storage.snapshot import Snapshot

DAY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """40 episodes with many equal values and nulls in every column that an order can name."""
    lake = Lake.open(str(tmp_path_factory.mktemp("paging") / "lake"), create=True)
    rows = [
        {"episode_id": f"ep_{at * 7 % 40:02}", "dataset": "ab"[at % 2], "source_key": str(at % 5), "n_steps": at % 4,
         "task": [None, "x", "y"][at % 3], "success": [True, False, None][at % 3 if at % 2 else 0],
         "duration_s": [1.5, None, -2.0, float("inf")][at % 4], "ingested_at": DAY + timedelta(days=at % 3),
         "revision": 0, "content_hash": str(at)}
        for at in range(40)
    ]  # fmt: skip
    lake.append_rows("episodes", rows, transaction="all")
    return Snapshot.take(lake)


@settings(max_examples=40, deadline=None)
@given(
    keys=st.lists(
        st.sampled_from(["n_steps", "task", "success", "duration_s", "ingested_at", "dataset"]), max_size=3, unique=True
    ),
    down=st.lists(st.booleans(), min_size=3, max_size=3),
    size=st.integers(1, 45),
    where=st.sampled_from([None, "n_steps > 0", "task = 'x' OR success"]),
)
def test_pages_put_together_are_the_whole_in_its_order(held, keys, down, size, where):
    order = [("-" if flip else "") + key for key, flip in zip(keys, down, strict=False)]
    whole = page(held, where, order_by=order, limit=None)
    found, after, turns = [], None, 0
    while True:
        part = page(held, where, order_by=order, limit=size, after=after, columns=["episode_id", "task"])
        assert len(part.rows) <= size
        assert (part.matched, part.undecided) == (whole.matched, whole.undecided)
        found += part.rows["episode_id"].to_list()
        turns += 1
        if (after := part.next) is None:
            break
    assert found == whole.rows["episode_id"].to_list()
    assert turns == max(1, -(-whole.matched // size))
    values = whole.rows.select(keys).rows() if keys else []
    expected = whole.rows.sort(keys, descending=[d for d, _ in zip(down, keys, strict=False)], nulls_last=True)
    assert values == (expected.select(keys).rows() if keys else [])


def test_rows_that_come_in_between_neither_repeat_nor_hide_others(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), create=True)

    def add(*names):
        rows = [{"episode_id": name, "dataset": "d", "source_key": name, "n_steps": 1, "revision": 0} for name in names]
        lake.append_rows("episodes", rows, transaction=str(names))
        return Snapshot.take(lake)

    first = page(add("b", "d", "f"), limit=2)
    second = page(add("a", "c", "e", "g"), limit=10, after=first.next)
    assert first.rows["episode_id"].to_list() == ["b", "d"]
    assert second.rows["episode_id"].to_list() == ["e", "f", "g"]


@pytest.mark.parametrize(
    ("given_", "code"),
    [
        ({"table": "runs"}, "unknown_table"),
        ({"columns": ["nothing"]}, "bad_expression"),
        ({"order_by": ["videos"]}, "bad_order"),
        ({"where": "n_steps"}, "bad_expression"),
        ({"after": "e30"}, "bad_cursor"),
        ({"after": "\udc80"}, "bad_cursor"),
        ({"table": "scores", "order_by": ["nothing"]}, "unknown_column"),
    ],
)
def test_what_is_unknown_is_refused(held, given_, code):
    with pytest.raises(RequestError) as caught:
        page(held, **given_)
    assert caught.value.code == code


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("values", [[1.0, nan, nan, None], [3.0, 1.0, 2.0, 2.0], [None, None, 1.0, 2.0]])
def test_what_a_page_is_sorted_from_holds_its_first_rows(values, down):
    """By polars' own order, in which NaN is the greatest."""
    column = pl.Series("value", values, pl.Float64)
    for count in (1, 2, 3):
        kept = column.filter(_leading(column, None, down, count)).sort(descending=down, nulls_last=True)
        assert kept.head(count).equals(column.sort(descending=down, nulls_last=True).head(count))
