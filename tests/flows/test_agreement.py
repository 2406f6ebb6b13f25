from __future__ import annotations

from itertools import pairwise

import polars as pl
import pytest

from data_engine.errors import RequestError
from data_engine.recipe import LabelRecipe
from flows.agreement import agreement, agreements
from flows.describe import describe
from flows.label import label
from storage.lake import Lake


def put(lake: Lake, producer: str, cuts: dict[str, list[int]]) -> None:
    """Segments of a producer elsewhere: those of each episode begin at 0 and at its cuts."""
    rows = []
    for row in lake.episodes().iter_rows(named=True):
        edges = [0, *cuts.get(row["source_key"], []), row["n_steps"]]
        rows += [
            {"episode_id": row["episode_id"], "content_hash": row["content_hash"], "kind": "segment", "start": a,
             "stop": b, "producer": producer, "version": "1", "config_hash": "c", "fit_id": "fit_1"}
            for a, b in pairwise(edges) if row["source_key"] in cuts
        ]  # fmt: skip
    lake.append_rows("annotations", rows, transaction=f"put {producer}")


def test_cuts_that_pair_up_within_the_tolerance_are_counted_over_episodes_that_both_cut(filled):
    arm = filled.episodes(dataset="reach")
    period = arm["duration_s"][0] / (arm["n_steps"][0] - 1)
    put(filled, "one", {"demo_0": [10, 20], "demo_1": [15], "demo_2": [8]})
    put(filled, "two", {"demo_0": [11, 25], "demo_1": [], "demo_5": [4]})
    found = agreement(filled, arm, "one", "two", tolerance_s=2.1 * period)
    assert (found["episodes"], found["first_cuts"], found["second_cuts"]) == (2, 3, 2)
    assert (found["precision"], found["recall"], found["f1"]) == (1 / 3, 1 / 2, 2 / 5)
    assert 0 <= found["chance"] <= 0.8
    wide = agreement(filled, arm, "one", "two", tolerance_s=5.1 * period)
    assert wide["f1"] == 4 / 5
    assert wide["chance"] > found["chance"]
    mirrored = agreement(filled, arm, "two", "one", tolerance_s=5.1 * period)
    assert (mirrored["precision"], mirrored["recall"]) == (wide["recall"], wide["precision"])


def test_nobody_cuts_or_nobody_labelled(filled):
    put(filled, "one", {"demo_0": []})
    put(filled, "two", {"demo_0": []})
    arm = filled.episodes(dataset="reach")
    found = agreement(filled, arm, "one", "two")
    assert (found["episodes"], found["precision"], found["f1"], found["chance"]) == (1, None, None, None)
    with pytest.raises(RequestError, match="no annotations 'segment' of 'three'"):
        agreement(filled, arm, "one", "three")


def test_describe_holds_every_two_labellers_against_each_other(filled, common):
    arm = filled.episodes(dataset="reach")
    assert agreements(filled, arm) == []
    label(filled, LabelRecipe(labeller="keyposes", params={"still_m_s": 0.3}), arm, **common)
    said = filled.scan("annotations").filter((pl.col("kind") == "segment") & (pl.col("start") > 0)).collect()
    keys = dict(arm.select("episode_id", "source_key").iter_rows())
    cuts: dict[str, list[int]] = {key: [] for key in keys.values()}
    for name, start in said.select("episode_id", "start").iter_rows():
        cuts[keys[name]] = sorted([*cuts[keys[name]], start])
    put(filled, "again", cuts)
    (row,) = describe(filled, arm)["agreements"]
    assert (row["first"], row["second"], row["f1"], row["reason"]) == ("again", "keyposes", 1.0, None)
    assert row["chance"] < 0.9
    label(filled, LabelRecipe(labeller="keyposes", params={"still_m_s": 0.1}), arm, **common)
    (row,) = agreements(filled, arm)
    assert row["f1"] is None
    assert "keyposes labelled these episodes 2 times" in row["reason"]
