from __future__ import annotations

import polars as pl

from data_engine.recipe import ScoreRecipe
from flows.query import score_column
from flows.score import score
from scorers.diversity import Diversity
from storage.check import fingerprint

DIVERSITY = ScoreRecipe(scorer="diversity")
SETS = [metric.name for metric in Diversity.spec.set_metrics]


def sets(lake) -> pl.DataFrame:
    mine = (pl.col("scorer") == "diversity") & (pl.col("unit_kind") != "episode")
    return lake.scan("scores").filter(mine).collect().sort("unit_kind", "unit_id", "metric")


def test_datasets_and_operators_have_rows_of_their_own(filled, common):
    arm = filled.episodes(dataset="reach")
    answer = score(filled, DIVERSITY, arm, **common)
    found = sets(filled)
    units = set(found.select("unit_kind", "unit_id").iter_rows())
    operators = arm["operator"].drop_nulls().unique()
    assert units == {("dataset", "reach")} | {("operator", name) for name in operators}
    assert found.group_by("unit_kind", "unit_id").agg(pl.col("metric").sort())["metric"].to_list() == [
        sorted(SETS)
    ] * len(units)
    whole = found.filter(pl.col("unit_kind") == "dataset")
    assert set(whole["stop"]) == {arm["n_steps"].sum()}
    assert whole.filter(pl.col("metric") == "vendi")["value"].item() > 1
    assert found.filter(pl.col("value").is_null())["reason"].null_count() == 0
    assert score_column(filled, arm, "diversity.mode_id").null_count() < len(arm)  # those of episodes are as they were
    before = fingerprint(filled)
    assert score(filled, DIVERSITY, arm, **common)["already"] == answer["scored"]
    assert fingerprint(filled) == before


def test_a_set_that_grew_is_measured_anew(filled, common):
    arm = filled.episodes(dataset="reach")
    fit = score(filled, DIVERSITY, arm.head(20), **common)["fit_id"]
    old = sets(filled)
    score(filled, DIVERSITY.model_copy(update={"fit": fit}), arm, **common)
    new = sets(filled)
    assert len(new.filter(pl.col("unit_kind") == "dataset")) == 2 * len(SETS)
    assert new.join(old, on=["unit_id", "content_hash", "metric"], how="semi").height == len(old)
