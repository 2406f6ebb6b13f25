"""A recipe that labels, chooses among segments and hands them over."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError
from data_engine.recipe import validate
from flows.curate import curate
from flows.progress import silent
from storage.check import check, fingerprint
from storage.lake import Lake

SEGMENTS = {"producer": "keyposes", "where": "label = 'stop' AND steps > 3"}


def recipe(source, out, **changed) -> dict:
    return {
        "name": "parts",
        "source": {"uri": str(source), "name": "reach"},
        "spaces": [],
        "score": [{"scorer": "integrity"}],
        "label": [{"labeller": "keyposes", "params": {"still_m_s": 0.3, "apart": 3}}],
        "select": [
            {"name": "stops", "method": "random", "budget": 0.8, "where": "keyposes.stops > 0", "segments": SEGMENTS}
        ],
        "mixture": {"weight_kind": "choose", "unit": "episode", "entries": [{"selection": "stops", "weight": 4}]},
        "export": [{"format": "lerobot_v3", "uri": str(out)}],
        **changed,
    }


@pytest.fixture(scope="module")
def curated(tmp_path_factory, recording):
    folder = tmp_path_factory.mktemp("parts")
    resolved = validate(recipe(recording, folder / "out"))
    return folder, resolved, curate(str(folder / "lake"), resolved, progress=silent())


def test_the_mixture_holds_the_chosen_segments_and_says_who_named_them(curated):
    folder, _, answer = curated
    lake = Lake.open(str(folder / "lake"))
    assert check(lake) == []
    (item,) = answer["labels"]
    assert (item["labeller"], item["labelled"], item["errors"]) == ("keyposes", 24, 0)
    demos = mixtures.open(answer["mixture"])
    said = lake.scan("annotations").filter((pl.col("kind") == "segment") & (pl.col("label") == "stop")).collect()
    said = said.filter(pl.col("stop") - pl.col("start") > 3)
    held = set(zip(*(demos.episodes[name].to_pylist() for name in ("episode_id", "start", "stop")), strict=True))
    assert held < set(said.select("episode_id", "start", "stop").iter_rows())
    assert len(held) == round(0.8 * len(said))
    assert {each.scorer: each.fit_id for each in demos.document.scorers}["keyposes"] == item["fit_id"]
    lengths = sorted(stop - start for _, start, stop in held)
    exported = [pq.read_table(path) for path in sorted((folder / "out" / "meta" / "episodes").rglob("*.parquet"))]
    assert sorted(length for table in exported for length in table["length"].to_pylist()) == lengths


def test_running_it_again_or_in_a_pool_gives_the_same(curated, tmp_path):
    folder, resolved, answer = curated
    lake = Lake.open(str(folder / "lake"))
    before = fingerprint(lake)
    assert curate(str(folder / "lake"), resolved, progress=silent())["mixture_id"] == answer["mixture_id"]
    assert fingerprint(lake) == before
    other = resolved.model_copy(
        update={"export": (resolved.export[0].model_copy(update={"uri": str(tmp_path / "out")}),)}
    )
    again = curate(str(tmp_path / "lake"), other, progress=silent(), workers=2)
    assert again["mixture_id"] == answer["mixture_id"]
    assert fingerprint(Lake.open(str(tmp_path / "lake"))) == before


def test_a_window_of_the_loader_ends_where_its_segment_does(curated):
    from data_engine.windows import Windows

    _, _, answer = curated
    demos = mixtures.open(answer["mixture"])
    lengths = {
        (row["episode_id"], step): row["stop"] - step
        for row in demos.episodes.select(["episode_id", "start", "stop"]).to_pylist()
        for step in range(row["start"], row["stop"])
    }
    count = 0
    for sample in demos.samples(Windows(action_horizon=8)):
        left = lengths[sample["episode_id"], int(sample["step"])]
        assert sample["action_is_pad"].tolist() == (np.arange(8) >= left).tolist()
        count += 1
    assert count > 20


def test_a_labeller_that_is_not_there_or_whose_space_is_not_is_refused_before_anything_runs(recording, tmp_path):
    with pytest.raises(RequestError, match="unknown labeller 'keypose'") as caught:
        validate(recipe(recording, tmp_path, label=[{"labeller": "keypose"}]))
    assert "keyposes" in caught.value.fix
    with pytest.raises(RequestError, match="labeller 'uvd' reads space 'clip'; the recipe makes none"):
        validate(recipe(recording, tmp_path, label=[{"labeller": "uvd", "params": {"space": "clip"}}]))
    with pytest.raises(RequestError, match="still_m_s"):
        validate(recipe(recording, tmp_path, label=[{"labeller": "keyposes", "params": {"still_m_s": -1}}]))
