from __future__ import annotations

import json

import pytest

from tests.api.commands import answer, call, refusal


def test_a_lake_that_is_not_there_is_named(capsys, tmp_path):
    code, _, err = call(capsys, "datasets", "--lake", tmp_path / "none")
    assert code == 2
    assert "no lake at" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "verb", ["datasets", "receipts", "mixtures", "runs", "scorers", "labellers", "encoders", "formats", "fits"]
)
def test_lists_are_items_with_names_and_a_line_each(capsys, curated, verb):
    lake = ("--lake", curated / "lake")
    items = answer(capsys, verb, *lake)["items"]
    assert items
    assert all(("run_id" if verb == "runs" else "name") in item for item in items)
    code, out, _ = call(capsys, verb, *lake)
    assert code == 0
    assert len(out.splitlines()) == 1 + len(items)


def test_a_format_is_listed_with_what_it_is(capsys):
    items = {item["name"]: item for item in answer(capsys, "formats")["items"]}
    assert items["rlds"]["what"].startswith("RLDS (")
    assert (items["lerobot_v3"]["read"], items["lerobot_v3"]["written"]) == (True, True)
    assert all(len(item["what"]) > 20 for item in items.values())


def test_what_must_be_given_stands_before_what_has_a_default(capsys):
    options = {item["name"]: item["options"] for item in answer(capsys, "labellers")["items"]}
    assert options["vlm_reward"].startswith("goal, baseline, ")
    assert options["vlm_reward"].endswith(", alpha=0.5")
    found = {item["name"]: item for item in answer(capsys, "encoders")["items"]}
    assert found["timm"]["options"].startswith("model, ") and "pretrained=false" in found["timm"]["options"]
    assert len({item["what"] for item in found.values()}) == len(found)


def test_datasets_and_mixtures_count(capsys, curated):
    lake = ("--lake", curated / "lake")
    (dataset,) = answer(capsys, "datasets", *lake)["items"]
    episodes = answer(capsys, "query", *lake)["items"]
    assert dataset["episodes"] == len(episodes)
    assert dataset["steps"] == sum(row["n_steps"] for row in episodes)
    assert {"episodes", "steps", "mixture_id"} <= answer(capsys, "mixtures", *lake)["items"][0].keys()


def test_receipts_are_listed_and_shown_whole(capsys, tmp_path, recording):
    lake = ("--lake", tmp_path / "lake")
    first = answer(capsys, "ingest", recording, "--dataset", "one", *lake)
    second = answer(capsys, "ingest", recording, "--dataset", "two", "-o", "operator=ann", *lake)
    one, two = answer(capsys, "receipts", *lake)["items"]
    assert (one["name"], two["name"]) == ("one", "two")
    assert (one["run_id"], two["run_id"]) == (first["run_id"], second["run_id"])
    assert (one["episodes"], one["steps"], one["published"]) == (18, first["stored"]["steps"], True)
    assert [row["name"] for row in answer(capsys, "receipts", "--dataset", "two", *lake)["items"]] == ["two"]
    for which in ("two", second["run_id"]):
        whole = answer(capsys, "receipts", which, *lake)
        assert {name: whole[name] for name in second} == second
    code, out, _ = call(capsys, "receipts", "two", *lake)
    assert code == 0 and json.loads(out)["source"]["options"]["operator"] == "ann"
    assert "datasets: one, two" in refusal(capsys, "receipts", "three", *lake)
    assert "datasets: one, two" in refusal(capsys, "receipts", "--dataset", first["run_id"], *lake)
