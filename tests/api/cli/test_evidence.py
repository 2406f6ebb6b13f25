from __future__ import annotations

import shutil

import polars as pl

from tests.api.commands import answer, call, refusal
from tests.recordings import write_robomimic


def test_query_filters_orders_and_writes(capsys, curated, tmp_path):
    lake = ("--lake", curated / "lake")
    rows = answer(
        capsys, "query", "--where", "operator <> 'lost' AND integrity = 0", "--columns",
        "source_key,operator,action_divergence", "--order-by", "-action_divergence", *lake,
    )  # fmt: skip
    values = [row["action_divergence"] for row in rows["items"] if row["action_divergence"] is not None]
    assert values == sorted(values, reverse=True)
    assert {row["operator"] for row in rows["items"]} == {"steady", "shaky"}
    call(capsys, "query", "--format", "parquet", "--out", tmp_path / "rows.parquet", *lake)
    assert len(pl.read_parquet(tmp_path / "rows.parquet")) == 18
    assert answer(capsys, "query", "--table", "scores", "--where", "metric = 'length'", *lake)["rows"] >= 18
    code, out, _ = call(capsys, "query", "--limit", "2", *lake)
    assert code == 0
    assert "episode_id" in out


def test_query_shows_scores_by_their_names(capsys, curated):
    lake = ("--lake", curated / "lake")
    code, out, _ = call(capsys, "query", "--columns", "source_key,integrity,task", "--order-by", "source_key", *lake)
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split() == ["source_key", "integrity", "task"]
    assert len(rows) == 18
    assert rows[0].split() == ["demo_0", "0", "reach", "right"]


def test_rows_and_json_do_not_share_stdout(capsys, curated, tmp_path):
    lake = ("--lake", curated / "lake")
    code, out, _ = call(capsys, "query", "--format", "parquet", "--json", *lake)
    assert code == 2
    assert "give --out FILE" in out
    line = refusal(capsys, "query", "--format", "parquet", "--out", tmp_path / "no" / "rows.parquet", *lake)
    assert "cannot write" in line


def test_scorers_that_need_a_base_set_run_where_one_is_named(capsys, curated, tmp_path):
    copy = tmp_path / "lake"
    shutil.copytree(curated / "lake", copy)
    lake = ("--lake", copy)
    line = refusal(capsys, "score", "compatibility", *lake)
    assert "'compatibility' needs a base set" in line
    given = ("--base", "operator = 'steady'", "-o", "iterations=20", "-o", "members=2")
    (item,) = answer(capsys, "score", "compatibility", *given, *lake)["items"]
    assert (item["scored"], item["nulls"]) == (18, 0)
    rows = answer(capsys, "query", "--columns", "operator,compatibility", *lake)["items"]
    assert len([row for row in rows if row["compatibility"] is not None]) == 18


def test_scoring_again_measures_what_is_new_unless_it_is_to_refit(capsys, tmp_path):
    lake = ("--lake", tmp_path / "lake")

    def scored(*more):
        (item,) = answer(capsys, "score", "smoothness", *more, *lake)["items"]
        return item["scored"], item["already"], item["fit_id"]

    for name, seed in (("first", 3), ("second", 4)):
        source = write_robomimic(tmp_path / f"{name}.hdf5", episodes=6, seed=seed)
        answer(capsys, "ingest", source, "--dataset", name, *lake)
        if name == "first":
            *counts, fit = scored()
            assert counts == [6, 0]
    assert scored() == (6, 6, fit)
    *counts, anew = scored("--refit")
    assert (counts, anew != fit) == ([12, 0], True)
    assert scored() == (0, 12, anew)
    assert scored("--fit", fit) == (0, 12, fit)
    assert "no fit 'fit_0'" in refusal(capsys, "score", "smoothness", "--fit", "fit_0", *lake)
    assert "neither --base nor --refit" in refusal(capsys, "score", "smoothness", "--fit", fit, "--refit", *lake)
    assert "a fit belong to one scorer" in refusal(capsys, "score", "smoothness", "ending", "--fit", fit, *lake)


def test_labellers_annotate_and_their_segments_are_chosen_among(capsys, curated, tmp_path):
    shutil.copytree(curated / "lake", tmp_path / "lake")
    lake = ("--lake", tmp_path / "lake")
    assert "keyposes" in {item["name"] for item in answer(capsys, "labellers", *lake)["items"]}
    option = ("-o", "still_m_s=0.3")
    (item,) = answer(capsys, "label", "keyposes", "--against", "keyposes", *option, *lake)["items"]
    assert (item["labelled"], item["already"], item["errors"]) == (18, 0, 0)
    assert item["agreement"]["f1"] == 1.0
    code, out, _ = call(capsys, "label", "keyposes", "--against", "keyposes", *option, *lake)
    counts, agreed = (dict(zip(*map(str.split, part.splitlines()), strict=True)) for part in out.split("\n\n"))
    assert (code, counts["labelled"], counts["already"], agreed["f1"]) == (0, "0", "18", "1")
    stops = ("--table", "annotations", "--where", "kind = 'segment' AND label = 'stop'")
    spans = answer(capsys, "query", *stops, *lake)["items"]
    count = len(spans)
    assert count > 5
    stopped = answer(capsys, "query", "--where", "keyposes.stops > 0", *lake)["items"]
    assert {row["episode_id"] for row in stopped} == {row["episode_id"] for row in spans}
    named = ("select", "--method", "filter", "--name", "stops", "--segments", "keyposes")
    told = answer(capsys, *named, "--segments-where", "label = 'stop'", *lake)
    assert (told["chosen"], told["candidates"]) == (count, count)
    listed = {row["name"]: row for row in answer(capsys, "selections", "list", *lake)["items"]}
    assert listed["stops"]["steps"] == sum(row["stop"] - row["start"] for row in spans)


def test_labels_that_cannot_be_are_refused_in_one_line(capsys, curated):
    lake = ("--lake", curated / "lake")
    assert "did you mean 'keyposes'?" in refusal(capsys, "label", "keypose", *lake)
    assert "there is no space 'open_clip'" in refusal(capsys, "label", "uvd", *lake)
    assert "goes with --segments" in refusal(
        capsys, "select", "--method", "filter", "--name", "x", "--segments-where", "steps > 3", *lake
    )
    assert "no annotations 'segment' of 'uvd'" in refusal(
        capsys, "select", "--method", "filter", "--name", "x", "--segments", "uvd", *lake
    )
