from __future__ import annotations

import polars as pl
import pytest

from data_engine.model import SCORES
from storage.pivot import COLUMNS, Pivot

EPISODES = pl.DataFrame({"episode_id": ["a", "b", "b", "c"], "content_hash": ["1", "2", "3", None]})


def rows(scorer: str, *values: tuple[str, str | None, float, str | None]) -> pl.DataFrame:
    """Scores of (episode, content, value, reason), as the table has them."""
    known = [{"unit_id": unit, "content_hash": content, "scorer": scorer, "metric": "m", "value": value,
              "reason": reason, "status": "ok"} for unit, content, value, reason in values]  # fmt: skip
    empty = pl.DataFrame(SCORES.empty_table())
    return pl.concat([empty, pl.DataFrame(known)], how="diagonal_relaxed").select(COLUMNS)


def told(pivot: Pivot) -> list[list[tuple[str, float, str | None]]]:
    """What is said of each of the episodes."""
    places = pivot.slots(EPISODES)
    return [[(row["scorer"], row["value"], row["reason"]) for row in pivot.rows_at(int(slot))] for slot in places]


@pytest.mark.parametrize("collide", [False, True])
def test_what_is_said_of_a_recording_is_found_whatever_its_hash(monkeypatch, collide):
    if collide:
        monkeypatch.setattr(
            "storage.pivot._hashed", lambda pairs: pl.repeat(7, len(pairs), dtype=pl.UInt64, eager=True)
        )
    parts = [
        rows("s", ("c", None, 4.0, None), ("a", "1", 1.0, None), ("b", "2", 2.0, None)),
        rows("t", ("a", "1", 5.0, "late"), ("b", "3", 6.0, None), ("a", "1", 7.0, "later")),  # twice of one: two spans
        pl.concat([rows("s", ("b", "3", 3.0, None)), rows("t", ("z", "9", 8.0, None))]),  # of one that is no episode
    ]
    whole = Pivot.empty().with_rows(iter(parts), EPISODES)
    assert told(whole) == [
        [("s", 1.0, None), ("t", 7.0, "later"), ("t", 5.0, "late")], [("s", 2.0, None)],
        [("s", 3.0, None), ("t", 6.0, None)], [("s", 4.0, None)],
    ]  # fmt: skip
    late = Pivot.empty().with_rows(iter(parts[:1]), EPISODES)
    before = told(late)
    assert told(late.with_rows(iter(parts[1:]), EPISODES)) == told(whole)
    assert told(late) == before  # an older one stays as it was
