from __future__ import annotations

import json
import shutil
from dataclasses import replace

import polars as pl
import pytest

from data_engine import registry
from data_engine.recipe import Base, ScoreRecipe, SourceRecipe
from flows.earlier_fit import going_on
from flows.executor import Local
from flows.ingest import ingest
from flows.progress import silent
from flows.runs import recorded
from flows.score import score
from storage.fits import FITS, flag
from storage.lake import Lake
from tests.recordings import write_robomimic

COMPOSITE = ScoreRecipe(scorer="composite")
SMOOTH = ScoreRecipe(scorer="smoothness")
STEADY = SMOOTH.model_copy(update={"base": Base(where="operator = 'steady'")})


@pytest.fixture(scope="module")
def scored(tmp_path_factory, recording):
    """A lake with a scored dataset, and a second that came later."""
    folder = tmp_path_factory.mktemp("earlier")
    lake = Lake.open(str(folder / "lake"), create=True)
    common = {"on": Local(), "progress": silent(), "run_id": "run_before"}
    ingest(lake, SourceRecipe(name="reach", uri=str(recording)), **common)
    run(lake, [COMPOSITE, SMOOTH])
    run(lake, [STEADY])
    more = write_robomimic(folder / "more.hdf5", episodes=6, seed=9)
    ingest(lake, SourceRecipe(name="more", uri=str(more)), **common)
    return folder / "lake"


def run(lake: Lake, recipes: list[ScoreRecipe], **asked) -> list[dict]:
    """What the verb does with ``recipes``: those it goes on with are scored, and what was asked is recorded."""
    told = silent()
    request = {"dataset": None, "where": None, **asked}
    with recorded(lake, "score", {"scorers": [one.model_dump(mode="json") for one in recipes], **request}) as now:
        found = going_on(lake, recipes, lake.episodes(), **request, progress=told)
        common = {"on": Local(), "progress": told, "run_id": now.id}
        now.result = {"items": [score(lake, one, lake.episodes(), **common) for one in found]}
    return [{**item, "warned": list(told.warned)} for item in now.result["items"]]


@pytest.fixture
def lake(scored, tmp_path):
    shutil.copytree(scored, tmp_path / "lake")
    return Lake.open(str(tmp_path / "lake"))


def test_asked_again_only_what_is_new_is_scored(lake):
    before = lake.scan("scores").collect()
    first, second = run(lake, [COMPOSITE, SMOOTH])
    assert (first["scored"], first["already"]) == (6, 24)
    assert (second["scored"], second["already"]) == (0, 30)  # as a part of the other
    assert {first["fit_id"], second["fit_id"]} <= set(before["fit_id"])
    assert first["warned"] == [
        "6 episodes are held against earlier reference sets, which do not hold them (composite, smoothness); refit to "
        "measure everybody against all of them"
    ]
    after = lake.scan("scores").collect()
    assert len(after) > len(before)
    new = after.join(before.select("unit_id").unique(), on="unit_id", how="anti")
    assert len(after) == len(before) + len(new)
    assert set(after["fit_id"]) == set(before["fit_id"])
    assert new.filter(pl.col("scorer") == "composite")["value"].null_count() == 0


def test_what_was_asked_otherwise_is_another_matter(lake):
    def fit(recipe, dataset=None, where=None):
        (found,) = going_on(lake, [recipe], lake.episodes(), dataset=dataset, where=where, progress=silent())
        return found.fit

    plain, steady = fit(SMOOTH), fit(STEADY)
    assert None not in (plain, steady)
    assert plain != steady
    assert fit(SMOOTH, dataset="reach") is None
    assert fit(SMOOTH, where="success") is None
    assert fit(SMOOTH.model_copy(update={"params": {"split_hz": 3.0}})) is None
    assert fit(ScoreRecipe(scorer="integrity")) is None  # only ever a part of composite
    assert fit(SMOOTH.model_copy(update={"fit": "fit_given"})) == "fit_given"


def test_a_fit_that_would_not_do_is_none(lake, monkeypatch):
    def fits():
        return [one.fit for one in going_on(lake, [COMPOSITE, SMOOTH], lake.episodes(), dataset=None, where=None,
                                            progress=silent())]  # fmt: skip

    composite, smooth = fits()
    assert None not in (composite, smooth)
    part = lake.get_fit("composite", composite).meta["parts"]["smoothness"]
    assert part == smooth
    path = f"{FITS}/smoothness/{smooth}/fit.json"
    kept = lake.read_bytes(path)
    scorer = registry.load("scorers", "smoothness")
    monkeypatch.setattr(scorer, "spec", replace(scorer.spec, version="99"))
    assert fits() == [None, None]  # composite stands on it
    monkeypatch.undo()
    lake.write_bytes(path, kept[: len(kept) // 2])
    assert fits() == [None, None]
    lake.write_bytes(path, kept)
    assert fits() == [composite, smooth]
    flag(lake, [json.loads(kept)["reference"][0]], "now")
    assert fits() == [None, None]
