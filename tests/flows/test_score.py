from __future__ import annotations

import shutil

import h5py
import numpy as np
import polars as pl
import pytest
from scipy.stats import percentileofscore

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.recipe import Base, ScoreRecipe, SourceRecipe
from data_engine.scoring import Fit, Metric, Scorer, ScoreRow, Spec
from flows.ingest import ingest
from flows.query import score_column
from flows.score import _scored, chunks, score
from scorers.action_divergence import ActionDivergence
from storage.check import fingerprint
from storage.fits import list_fits
from storage.lake import Lake

DIVERGENCE = ScoreRecipe(scorer="action_divergence")
HEADLINE = pl.col("metric") == "own_residual"


def rows(lake: Lake, *where: pl.Expr) -> pl.DataFrame:
    return lake.scan("scores").filter(*where).collect().sort("unit_id", "metric", "fit_id")


def of(lake: Lake, dataset: str) -> pl.DataFrame:
    return lake.episodes(dataset=dataset)


def test_one_row_a_metric_and_never_a_nan(read_only):
    found = rows(read_only)
    told = [metric.name for metric in ActionDivergence.spec.metrics if not metric.name.startswith("cloning_error")]
    assert dict(found.group_by("metric").len().iter_rows()) == dict.fromkeys(told, 24)
    assert not found["value"].is_nan().any()
    missing = found.filter(pl.col("value").is_null())
    assert 0 < len(missing) < len(found)
    assert set(missing["status"]) == {"undefined"}
    assert missing["reason"].null_count() == 0
    assert set(found.filter(pl.col("value").is_not_null())["status"]) == {"ok"}
    assert set(found["run_id"]) == {"run_measured"}
    episodes = read_only.episodes().select("episode_id", "content_hash", "n_steps")
    joined = found.join(episodes, left_on="unit_id", right_on="episode_id")
    assert len(joined) == len(found)
    assert joined["content_hash"].equals(joined["content_hash_right"], check_names=False)
    assert joined["stop"].equals(joined["n_steps_right"], check_names=False)


def test_percentiles_are_mid_ranks_within_task_and_embodiment_of_the_reference(read_only):
    found = rows(read_only).join(
        read_only.episodes().select("episode_id", "task", "embodiment"), left_on="unit_id", right_on="episode_id"
    )
    checked = 0
    for _, group in found.group_by("metric", "task", "embodiment"):
        values = group["value"].drop_nulls().to_numpy()
        for value, percentile in group.select("value", "percentile").iter_rows():
            assert (value is None) == (percentile is None)
            if value is not None:
                assert percentile == pytest.approx(percentileofscore(values, value, kind="mean"))
                checked += 1
    assert checked > 100


def test_is_fitted_once_and_not_run_again(filled, common):
    before, versions = fingerprint(filled), filled.version("scores")
    again = score(filled, DIVERGENCE, of(filled, "reach"), **common)
    assert (again["scored"], again["already"]) == (0, 24)
    assert filled.version("scores") == versions
    assert fingerprint(filled) == before
    assert [kind for kind, _ in list_fits(filled)].count("action_divergence") == 1


def test_a_scorer_that_combines_others_runs_them_first_on_its_own_reference(filled, common):
    recipe = ScoreRecipe(scorer="composite")
    first = score(filled, recipe, of(filled, "reach"), **common)
    assert first["scored"] == 24
    parts = filled.get_fit("composite", first["fit_id"]).meta["parts"]
    named = {need.split(".")[0] for need in registry.load("scorers", "composite").spec.needs.scores}
    assert set(parts) == named and len(named) > 4
    found = rows(filled, pl.col("scorer").is_in([*parts, "composite"]))
    assert set(found.group_by("scorer", "metric").len()["len"]) == {24}
    residual = rows(filled, HEADLINE)
    assert set(residual["fit_id"]) == {parts["action_divergence"]}  # the fit that was there already
    assert score(filled, recipe, of(filled, "reach"), **common)["already"] == 24
    known = score(filled, recipe.model_copy(update={"fit": first["fit_id"]}), of(filled, "reach"), **common)
    assert (known["fit_id"], known["scored"]) == (first["fit_id"], 0)


def test_the_order_of_the_episodes_changes_nothing(filled, common):
    shuffled = of(filled, "reach").sample(fraction=1.0, shuffle=True, seed=1)
    assert score(filled, DIVERGENCE, shuffled, **common)["scored"] == 0


def test_shards_do_not_show(filled, common, monkeypatch):
    whole = rows(filled).drop("run_id", "fit_id", "config_hash")
    one = Lake.open(filled.uri + "_parts", create=True)
    shutil.copytree(filled.root, one.root, dirs_exist_ok=True)
    for folder in ("tables/scores", "_ledger", "_pending", "fits"):
        shutil.rmtree(f"{one.root}/{folder}")
    monkeypatch.setattr("flows.score.chunks", lambda episodes: chunks(episodes, steps=100))
    assert score(one, DIVERGENCE, of(one, "reach"), **common)["scored"] == 24
    assert rows(one).drop("run_id", "fit_id", "config_hash").equals(whole)


def test_a_named_fit_scores_new_episodes_and_leaves_the_old_ones_alone(filled, common):
    before = rows(filled)
    fit = before["fit_id"][0]
    hand = of(filled, "hand")
    answer = score(filled, DIVERGENCE.model_copy(update={"fit": fit}), filled.episodes(), **common)
    assert (answer["fit_id"], answer["scored"], answer["already"]) == (fit, 9, 24)
    after = rows(filled)
    assert after.filter(pl.col("unit_id").is_in(before["unit_id"].implode())).equals(before)
    new = after.filter(pl.col("unit_id").is_in(hand["episode_id"].implode()), HEADLINE)
    assert len(new) == 9
    assert set(new["status"]) == {"undefined"}  # the reference holds no hand
    assert new["reason"].null_count() == 0


def test_new_episodes_get_percentiles_within_the_reference(filled, common, tmp_path, recording):
    source = tmp_path / "more.hdf5"
    shutil.copy(recording, source)
    with h5py.File(source, "r+") as file:
        for demo in file["data"].values():
            demo["actions"][...] = demo["actions"][:] * 1.05
    ingest(filled, SourceRecipe(name="more", uri=str(source)), **common)
    old = rows(filled, HEADLINE).drop_nulls("value")
    named = DIVERGENCE.model_copy(update={"fit": old["fit_id"][0]})
    score(filled, named, of(filled, "more"), **common)
    tasks = dict(filled.episodes().select("episode_id", "task").iter_rows())
    ids = of(filled, "more")["episode_id"].implode()
    new = rows(filled, HEADLINE, pl.col("unit_id").is_in(ids)).drop_nulls("value")
    assert len(new) > 5
    for unit, value, percentile in new.select("unit_id", "value", "percentile").iter_rows():
        like = [v for u, v in old.select("unit_id", "value").iter_rows() if tasks[u] == tasks[unit]]
        assert percentile == pytest.approx(percentileofscore(like, value, kind="mean"))


def test_a_changed_episodes_old_scores_are_not_its_own(filled, common, tmp_path, recording):
    source = tmp_path / "copy.hdf5"
    shutil.copy(recording, source)
    with h5py.File(source, "r+") as file:
        file["data/demo_0/actions"][...] = 3 + file["data/demo_0/actions"][:]
    old = {row["episode_id"]: row for row in of(filled, "reach").iter_rows(named=True)}
    ingest(filled, SourceRecipe(name="reach", uri=str(source)), **common)
    episodes = of(filled, "reach")
    (changed,) = [
        row for row in episodes["episode_id"] if old[row]["content_hash"] not in set(episodes["content_hash"])
    ]
    values = dict(zip(episodes["episode_id"], score_column(filled, episodes, "action_divergence.length"), strict=True))
    assert [unit for unit, value in values.items() if value is None] == [changed]
    fit = rows(filled)["fit_id"][0]
    answer = score(filled, DIVERGENCE.model_copy(update={"fit": fit}), episodes, **common)
    assert (answer["scored"], answer["already"]) == (1, 23)
    assert score_column(filled, episodes, "action_divergence.length").null_count() == 0
    assert len(rows(filled, HEADLINE, pl.col("unit_id") == changed)) == 2  # appended to, never changed


def test_refuses_a_fit_that_is_not_there_or_was_made_otherwise(filled, common):
    with pytest.raises(RequestError, match="no fit 'fit_0'") as caught:
        score(filled, DIVERGENCE.model_copy(update={"fit": "fit_0"}), of(filled, "reach"), **common)
    assert rows(filled)["fit_id"][0] in caught.value.fix
    with pytest.raises(RequestError, match="no episodes to fit action_divergence on"):
        score(filled, DIVERGENCE, filled.episodes().clear(), **common)
    other = {"fit": rows(filled)["fit_id"][0], "params": {"k": 4}}
    version = rows(filled)["version"][0]
    with pytest.raises(RequestError, match=rf'was made by version {version} of action_divergence with .*"k":10'):
        score(filled, DIVERGENCE.model_copy(update=other), of(filled, "reach"), **common)


def test_two_candidate_fits_are_an_error_that_names_them(filled, common):
    episodes = of(filled, "reach").head(18)
    score(filled, DIVERGENCE, episodes, **common)
    fits = sorted(rows(filled)["fit_id"].unique())
    assert len(fits) == 2
    with pytest.raises(RequestError, match="2 reference sets") as caught:
        score_column(filled, episodes, "action_divergence")
    assert all(fit in str(caught.value) for fit in fits)
    assert f"--fit action_divergence={fits[0]}" in caught.value.fix
    found = [score_column(filled, episodes, "action_divergence", {"action_divergence": fit}) for fit in fits]
    assert not found[0].equals(found[1])
    with pytest.raises(RequestError, match="from fit fit_0") as caught:
        score_column(filled, episodes, "action_divergence", {"action_divergence": "fit_0"})
    assert fits[0] in caught.value.fix
    assert score_column(filled, of(filled, "reach").tail(6), "action_divergence.length").null_count() == 0  # one fit


def test_a_bad_episode_poisons_nobody(filled, common):
    everyone = filled.episodes()
    with_nan = score(filled, ScoreRecipe(scorer="integrity"), everyone, **common)
    values = score_column(filled, everyone, "integrity", {"integrity": with_nan["fit_id"]})
    nan = everyone["source_key"].eq("demo_8") & everyone["dataset"].eq("hand")
    assert values.filter(nan).to_list() == [1.0]
    assert values.filter(~nan).null_count() == 0
    assert values.filter(~nan).max() < 1


def test_chunks_hold_whole_episodes_of_one_dataset(read_only):
    episodes = read_only.episodes()
    parts = list(chunks(episodes, steps=100))
    assert sorted(pl.concat(parts)["episode_id"]) == sorted(episodes["episode_id"])
    assert all(part["dataset"].n_unique() == 1 for part in parts)
    longest = episodes["n_steps"].max()
    assert all(part["n_steps"].sum() < 100 + longest for part in parts)
    again = [part["episode_id"].to_list() for part in chunks(episodes.reverse(), steps=100)]
    assert again == [part["episode_id"].to_list() for part in parts]
    assert list(chunks(episodes.clear())) == []
    assert all(part.columns == episodes.columns for part in parts)


class Brittle(Scorer):
    """Fails on episodes of one length, and runs out of memory where it is told to."""

    spec = Spec("brittle", "1", "episode", (Metric("length", "steps", "neither"), Metric("half", "steps", "neither")))
    bad: int
    starved: bool = False

    def fit(self, batches, *, base=None, seed=0, device="cpu"):
        return Fit("brittle", "1", self.config, seed, ())

    def score(self, batch, fit, *, device="cpu"):
        lengths = [rows.stop - rows.start for rows in batch]
        if self.starved:
            raise MemoryError
        if self.bad in lengths:
            raise ZeroDivisionError("no such\nlength")
        assert [len(batch.array("action")[rows]) for rows in batch] == lengths
        return [[ScoreRow("length", n), ScoreRow("half", n / 2)] for n in lengths]


def test_a_scorer_that_fails_on_an_episode_says_so_there_and_scores_the_others(read_only):
    (batch,) = read_only.batches(of(read_only, "reach"))
    lengths = [rows.stop - rows.start for rows in batch]
    scorer = Brittle(bad=lengths[5])
    found = _scored(scorer, batch, scorer.fit([]))
    assert len(found) == len(lengths)
    for n, rows_of in zip(lengths, found, strict=True):
        if n == lengths[5]:
            assert [(row.value, row.status, row.reason) for row in rows_of] == [
                (None, "error", "ZeroDivisionError: no such length")
            ] * 2
        else:
            assert [row.value for row in rows_of] == [n, n / 2]


def test_a_machine_that_runs_out_of_memory_is_not_the_episode_s_fault(read_only):
    (batch,) = read_only.batches(of(read_only, "reach"))
    scorer = Brittle(bad=0, starved=True)
    with pytest.raises(MemoryError):
        _scored(scorer, batch, scorer.fit([]))


COMPATIBLE = ScoreRecipe(scorer="compatibility", params={"iterations": 20, "members": 2})


def test_a_base_set_is_what_the_fit_saw_and_what_percentiles_are_of(filled, common):
    arm = of(filled, "reach")
    steady = arm.filter(pl.col("operator") == "steady")
    with pytest.raises(RequestError, match="'compatibility' needs a base set"):
        score(filled, COMPATIBLE, arm, **common)
    named = COMPATIBLE.model_copy(update={"base": Base(where="operator = 'steady'")})
    answer = score(filled, named, arm, **common)
    assert answer["scored"] == len(arm)
    fit = filled.get_fit("compatibility", answer["fit_id"])
    mine = filled.episodes().filter(pl.col("operator") == "steady")  # of the whole lake
    assert fit.reference == tuple(sorted(mine["content_hash"]))
    ranks = rows(filled, pl.col("metric") == "compatibility").join(arm, left_on="unit_id", right_on="episode_id")
    for (task,), group in ranks.group_by("task"):
        base = group.filter(pl.col("unit_id").is_in(steady["episode_id"].implode()))["value"].to_numpy()
        for value, percentile in group.select("value", "percentile").iter_rows():
            assert percentile == pytest.approx(percentileofscore(base, value, kind="mean")), task
    ids = COMPATIBLE.model_copy(update={"base": Base(ids=tuple(mine["episode_id"]))})
    assert score(filled, ids, arm, **common) == {**answer, "scored": 0, "already": len(arm), "nulls": 0}
    for wrong, message in (
        (Base(ids=("ep_0",)), "no episode 'ep_0'"),
        (Base(where="operator = 'nobody'"), "holds no episode"),
        (Base(selection="chosen"), "no selection 'chosen'"),
    ):
        with pytest.raises(RequestError, match=message):
            score(filled, COMPATIBLE.model_copy(update={"base": wrong}), arm, **common)


class Held(Scorer):
    """Says how many steps the reference had, and how many the targets."""

    spec = Spec("held", "1", "episode", (Metric("steps", "steps", "neither"),), base="targets")

    def fit(self, batches, *, base=None, seed=0, device="cpu"):
        found = [(content, n) for b in batches for content, n in zip(b.content_hashes, np.diff(b.offsets), strict=True)]
        seen = tuple(content for content, _ in found) + (base.reference if base else ())
        meta = {"own": int(sum(n for _, n in found)), "targets": base.meta["own"] if base else None}
        meta |= {"away": base.meta.get("away")} if base else {}
        return Fit("held", "1", self.config, seed, tuple(sorted(seen)), meta=meta, base=base.id if base else None)

    def less(self, wanted, unwanted):
        seen = tuple(sorted(wanted.reference + unwanted.reference))
        meta = {**wanted.meta, "away": unwanted.meta["own"]}
        return Fit("held", "1", self.config, wanted.seed, seen, meta=meta, base=unwanted.id)

    def score(self, batch, fit, *, device="cpu"):
        return [[ScoreRow("steps", fit.meta["own"] * 1e6 + fit.meta["targets"])] for _ in batch]


def test_targets_are_seen_beside_the_reference_and_never_in_it(filled, common, monkeypatch):
    known = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Held if name == "held" else known(kind, name))
    arm = of(filled, "reach")
    target = arm.filter(pl.col("operator") == "steady")
    named = ScoreRecipe(scorer="held", base=Base(ids=tuple(target["episode_id"])))
    answer = score(filled, named, arm, **common)
    fit = filled.get_fit("held", answer["fit_id"])
    assert fit.reference == tuple(sorted(arm["content_hash"]))
    targets = target["n_steps"].sum()
    assert fit.meta == {"own": arm["n_steps"].sum() - targets, "targets": targets, "away": None}
    lost = arm.filter(pl.col("operator") == "lost")
    away = Base(ids=tuple(target["episode_id"]), against="operator = 'lost' AND dataset = 'reach'")
    fit = filled.get_fit("held", score(filled, named.model_copy(update={"base": away}), arm, **common)["fit_id"])
    assert fit.meta["away"] == lost["n_steps"].sum()
    assert fit.meta["own"] == arm["n_steps"].sum() - targets - lost["n_steps"].sum()
    with pytest.raises(RequestError, match=r"has no use for base\.against"):
        score(filled, DIVERGENCE.model_copy(update={"base": away}), arm, **common)
    other = ScoreRecipe(scorer="held", base=Base(ids=tuple(target["episode_id"][:2])))
    assert score(filled, other, arm, **common)["fit_id"] != answer["fit_id"]
    with pytest.raises(RequestError, match="no episodes beside its base set"):
        score(filled, named, target, **common)
