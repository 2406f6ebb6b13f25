from __future__ import annotations

import polars as pl
import pytest

from data_engine.recipe import ScoreRecipe
from flows.levels import levels
from flows.query import score_column
from flows.score import score


def told(rows, level, name, scorer="action_divergence"):
    (row,) = [row for row in rows if (row["level"], row["name"], row["scorer"]) == (level, name, scorer)]
    return row


def test_medians_of_datasets_and_operators_count_what_is_known(read_only):
    episodes = read_only.episodes()
    values = score_column(read_only, episodes, "action_divergence")
    ranks = score_column(read_only, episodes, "percentile(action_divergence)")
    rows = levels(read_only, episodes)
    assert {row["level"] for row in rows} == {"dataset", "operator"}
    for level in ("dataset", "operator"):
        for name in episodes[level].drop_nulls().unique():
            mine = (episodes[level] == name).fill_null(False)
            row = told(rows, level, name)
            assert (row["episodes"], row["known"]) == (mine.sum(), values.filter(mine).count())
            assert row["median"] == values.filter(mine).median()
            assert row["percentile"] == ranks.filter(mine).median()
    assert 0 < told(rows, "dataset", "reach")["known"] < 24
    assert told(rows, "dataset", "hand")["median"] is None  # never scored


def test_two_reference_sets_are_a_reason_and_no_number(filled, common):
    some = filled.episodes(dataset="reach").head(18)
    score(filled, ScoreRecipe(scorer="action_divergence"), some, **common)
    score(filled, ScoreRecipe(scorer="smoothness"), some, **common)
    rows = levels(filled, some)
    row = told(rows, "dataset", "reach")
    assert (row["median"], row["percentile"], row["known"]) == (None, None, 0)
    assert "2 reference sets" in row["reason"]
    assert told(rows, "dataset", "reach", "smoothness")["reason"] is None
    assert told(rows, "dataset", "reach", "smoothness")["median"] == pytest.approx(
        score_column(filled, some, "smoothness").median()
    )
    fit = filled.scan("scores").filter(pl.col("scorer") == "action_divergence").collect()["fit_id"][0]
    row = told(levels(filled, some, {"action_divergence": fit}), "dataset", "reach")
    assert (row["reason"], row["known"] > 0) == (None, True)
    assert levels(filled, some.filter(pl.lit(False))) == []
