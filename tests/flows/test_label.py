from __future__ import annotations

import shutil
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from data_engine import registry
from data_engine.errors import EngineError, RequestError
from data_engine.labelling import Annotation, Labeller, Labels, LabelSpec
from data_engine.recipe import LabelRecipe, SourceRecipe
from data_engine.scoring import Fit, Metric, Needs, ScoreRow
from flows.executor import executor
from flows.index import embed
from flows.ingest import ingest
from flows.label import label
from flows.query import matching, query, score_column
from flows.score import chunks
from storage.check import check, fingerprint
from storage.lake import Lake

KEYPOSES = LabelRecipe(labeller="keyposes")


class Halves(Labeller):
    """Two spans an episode, with what the space says of it; does what it must not to episodes of one length."""

    spec: ClassVar[LabelSpec] = LabelSpec(
        "halves", "1", "step", (Metric("spans", "spans", "neither"), Metric("norm", "1", "higher")),
        kinds=("half", "value"), learns=False,
    )  # fmt: skip
    space: str | None = None
    bad: int = 0
    how: str = "raises"

    @property
    def needs(self) -> Needs:
        return Needs(spaces=(self.space,) if self.space else ())

    def fit(self, batches, *, base=None, seed=0, device="cpu"):
        assert list(batches) == []
        return Fit("halves", "1", self.config, seed, ())

    def label(self, batch, fit, *, device="cpu"):
        return [self._one(batch.one(i), rows.stop - rows.start) for i, rows in enumerate(batch)]

    def _one(self, one, n):
        half = n // 2
        said = [Annotation("half", half, n, "second", confidence=0.5), Annotation("half", 0, half, "first", "words")]
        said.append(Annotation("value", 0, n, value=np.nan, step_values=np.arange(n)))
        norm = None
        if self.space:
            (clips,) = one.spaces[self.space]
            assert [(int(a), int(b)) for a, b in zip(clips.starts, clips.stops, strict=True)] in ([(0, n)], [])
            norm = float(np.linalg.norm(clips.vectors)) if len(clips) else None
        if n == self.bad:
            if self.how == "raises":
                raise ZeroDivisionError("no such\nlength")
            wrong = {
                "outside": Annotation("half", 0, n + 1),
                "empty": Annotation("half", 3, 3),
                "kind": Annotation("third", 0, n),
                "values": Annotation("value", 0, n, step_values=np.zeros(n - 1)),
            }
            said += [wrong[self.how]] if self.how in wrong else []
        rows = (ScoreRow("spans", 2.0), ScoreRow("norm", norm, "ok" if norm else "undefined", None if norm else "none"))
        return Labels(said, rows[:1] if n == self.bad and self.how == "metric" else rows)


@pytest.fixture
def halves(monkeypatch):
    known = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Halves if name == "halves" else known(kind, name))


def of(lake: Lake, dataset: str = "reach") -> pl.DataFrame:
    return lake.episodes(dataset=dataset)


def said(lake: Lake, producer: str) -> pl.DataFrame:
    rows = lake.scan("annotations").filter(pl.col("producer") == producer).collect()
    return rows.sort("episode_id", "kind", "start", "stop")


def sums(lake: Lake, name: str) -> pl.DataFrame:
    return lake.scan("scores").filter(pl.col("scorer") == name).collect().sort("unit_id", "metric")


def test_annotations_name_their_producer_and_an_episode_is_summed_up_in_scores(filled, common, halves):
    episodes = of(filled)
    answer = label(filled, LabelRecipe(labeller="halves"), episodes, **common)
    assert (answer["labelled"], answer["already"], answer["annotations"], answer["errors"]) == (24, 0, 72, 0)
    rows = said(filled, "halves")
    assert len(rows) == 72
    assert set(rows.select("version", "config_hash", "fit_id", "run_id").unique().row(0)) == {
        "1", answer["config_hash"], answer["fit_id"], "run_test",
    }  # fmt: skip
    joined = rows.join(episodes, on=["episode_id", "content_hash"])
    assert len(joined) == 72
    value = joined.filter(pl.col("kind") == "value")
    assert value["value"].null_count() == 24  # a NaN is null, with a reason
    assert set(value["reason"]) == {"not finite"}
    assert value["step_values"].list.len().to_list() == value["n_steps"].to_list()
    first = joined.filter(pl.col("label") == "first")
    assert (first["start"].to_list(), set(first["text"]), set(first["confidence"])) == ([0] * 24, {"words"}, {None})
    assert first["stop"].to_list() == (first["n_steps"] // 2).to_list()
    scores = sums(filled, "halves")
    assert scores.filter(pl.col("metric") == "spans")["value"].to_list() == [2.0] * 24
    assert set(scores.filter(pl.col("metric") == "norm")["status"]) == {"undefined"}
    found, _ = query(filled, "kind = 'half' AND label = 'first'", table="annotations")
    assert len(found) == 24
    assert check(filled) == []


def test_what_is_labelled_is_not_labelled_again_and_new_episodes_make_no_new_fit(filled, common, halves):
    named = LabelRecipe(labeller="halves")
    first = label(filled, named, of(filled), **common)
    versions = filled.version("annotations"), filled.version("scores")
    before = fingerprint(filled)
    again = label(filled, named, of(filled).reverse(), **common)
    assert (again["labelled"], again["already"], again["fit_id"]) == (0, 24, first["fit_id"])
    assert (filled.version("annotations"), filled.version("scores")) == versions
    assert fingerprint(filled) == before
    more = label(filled, named, filled.episodes(), **common)
    assert (more["labelled"], more["already"], more["fit_id"]) == (9, 24, first["fit_id"])
    assert len(said(filled, "halves")) == 3 * 33


def test_a_labeller_that_learns_labels_by_a_fit_on_these_episodes(filled, common):
    answer = label(filled, KEYPOSES, of(filled), **common)
    assert filled.get_fit("keyposes", answer["fit_id"]).reference == tuple(sorted(of(filled)["content_hash"]))
    ranks = sums(filled, "keyposes").filter(pl.col("metric") == "count")
    assert ranks["percentile"].null_count() == 0
    fit = KEYPOSES.model_copy(update={"fit": answer["fit_id"]})
    assert label(filled, fit, of(filled), **common)["labelled"] == 0
    few = label(filled, KEYPOSES, of(filled).head(5), **common)
    assert few["fit_id"] != answer["fit_id"]
    with pytest.raises(RequestError, match="no fit 'fit_0'"):
        label(filled, KEYPOSES.model_copy(update={"fit": "fit_0"}), of(filled), **common)


def test_expressions_read_the_sums(filled, common):
    label(filled, KEYPOSES, of(filled), **common)
    found, undecided = matching(filled, of(filled), "keyposes >= 1 AND keyposes.segment_s > 0")
    assert (len(found), undecided) == (24, 0)
    with pytest.raises(RequestError, match="no metric 'cuont'"):
        matching(filled, of(filled), "keyposes.cuont > 1")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "ZeroDivisionError: no such length"), ("outside", "ValueError: half of steps 0 to"),
        ("empty", "ValueError: half of steps 3 to 3"),
        ("kind", "ValueError: halves gave an annotation of kind 'third'"),
        ("values", "ValueError: value of"), ("metric", "ValueError: halves gave metrics spans, not norm, spans"),
    ],
)  # fmt: skip
def test_a_bad_episode_says_so_in_its_scores_and_the_others_are_labelled(filled, common, halves, how, reason):
    episodes = of(filled)
    bad = episodes["n_steps"][3]
    count = int((episodes["n_steps"] == bad).sum())
    recipe = LabelRecipe(labeller="halves", params={"bad": bad, "how": how})
    answer = label(filled, recipe, episodes, **common)
    assert (answer["labelled"], answer["errors"], answer["annotations"]) == (24, count, 3 * (24 - count))
    wrong = sums(filled, "halves").filter(pl.col("status") == "error")
    assert set(wrong["unit_id"]) == set(episodes.filter(pl.col("n_steps") == bad)["episode_id"])
    assert len(wrong) == 2 * count
    assert all(text.startswith(reason) for text in wrong["reason"])
    assert len(common["progress"].warned) == 1
    assert label(filled, recipe, episodes, **common)["labelled"] == 0


def test_a_run_that_ends_between_its_two_commits_is_made_whole_by_the_next(filled, common, halves, monkeypatch):
    named, commit = LabelRecipe(labeller="halves"), Lake.commit

    def dies(self, name, files, **given):
        if name == "scores":
            raise EngineError("cut off", code="cut_off")
        return commit(self, name, files, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit", dies)
        with pytest.raises(EngineError, match="cut off"):
            label(filled, named, of(filled).head(10), **common)
    assert len(said(filled, "halves")) == 30
    assert len(sums(filled, "halves")) == 0
    assert label(filled, named, of(filled), **common)["labelled"] == 24  # other shards than those that were cut off
    assert len(said(filled, "halves")) == 72
    assert len(sums(filled, "halves")) == 48


def test_a_labeller_is_handed_the_vectors_of_its_space_and_its_fit_says_by_which_encoder(filled, common, halves):
    recipe = LabelRecipe(labeller="halves", params={"space": "trajectory"})
    answer = label(filled, recipe, filled.episodes(), **common)
    (version,) = filled.scan("embeddings/trajectory").select("encoder_version").unique().collect()["encoder_version"]
    fit = filled.get_fit("halves", answer["fit_id"])
    assert fit.meta["parts"] == {"space trajectory": version}
    stored = filled.scan("embeddings/trajectory").collect()
    norms = {row["episode_id"]: float(np.linalg.norm(row["vector"])) for row in stored.iter_rows(named=True)}
    rows = sums(filled, "halves").filter(pl.col("metric") == "norm")
    found = dict(zip(rows["unit_id"], rows["value"], strict=True))
    assert {name for name, value in found.items() if value is None} == set(found) - set(norms)
    assert len(norms) == 32
    for name, norm in norms.items():
        assert found[name] == pytest.approx(norm)
    with pytest.raises(RequestError, match="there is no space 'clip'") as caught:
        label(filled, LabelRecipe(labeller="halves", params={"space": "clip"}), of(filled), **common)
    assert "embed" in caught.value.fix


def test_vectors_of_another_encoder_make_another_fit_and_two_that_hold_as_many_are_refused(filled, common, halves):
    from data_engine.recipe import SpaceRecipe

    recipe = LabelRecipe(labeller="halves", params={"space": "trajectory"})
    first = label(filled, recipe, of(filled), **common)
    other = embed(filled, SpaceRecipe(), of(filled), **common)
    with pytest.raises(RequestError, match="several encoder versions"):
        label(filled, recipe, of(filled), **common)
    second = label(filled, recipe, of(filled), versions={"trajectory": other["encoder_version"]}, **common)
    assert second["fit_id"] != first["fit_id"]
    assert second["labelled"] == 24


def test_a_pool_makes_the_same_annotations(filled, common, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.score.chunks", lambda episodes: chunks(episodes, steps=300))
    whole = label(filled, KEYPOSES, of(filled), **common)
    rows = said(filled, "keyposes").drop("run_id")
    shutil.copytree(filled.root, tmp_path / "other")
    for folder in ("tables/annotations", "tables/scores", "_ledger", "_pending", "fits"):
        shutil.rmtree(tmp_path / "other" / folder)
    other = Lake.open(str(tmp_path / "other"))
    with executor("local", 2) as pool:
        again = label(other, KEYPOSES, of(other), **{**common, "on": pool})
    assert again == whole
    assert said(other, "keyposes").drop("run_id").equals(rows)


def test_real_recordings_are_cut_where_the_gripper_changes(lake, common, shared_data):
    """Meta-World: opening a drawer needs no grip, picking and pegging do."""
    ingest(lake, SourceRecipe(name="tiers", uri=str(shared_data / "metaworld_tiers" / "lerobot_v3")), **common)
    answer = label(lake, KEYPOSES, lake.episodes(), **common)
    assert (answer["labelled"], answer["nulls"], answer["errors"]) == (180, 0, 0)
    changes = lake.episodes().with_columns(
        changes=score_column(lake, lake.episodes(), "keyposes.gripper_changes"),
    )
    assert changes.filter(pl.col("task") == "drawer open")["changes"].median() == 0
    gripping = changes.filter(pl.col("success") & (pl.col("task") != "drawer open"))
    assert gripping["changes"].ge(1).mean() > 0.8
    segments = said(lake, "keyposes").filter(pl.col("kind") == "segment")
    tiles = segments.group_by("episode_id").agg((pl.col("stop") - pl.col("start")).sum().alias("steps"))
    lengths = dict(lake.episodes().select("episode_id", "n_steps").iter_rows())
    assert dict(tiles.iter_rows()) == lengths
    assert check(lake) == []
