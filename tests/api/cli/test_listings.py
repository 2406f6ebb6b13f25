from __future__ import annotations

import pytest

from tests.api.commands import answer, call


def test_a_lake_that_is_not_there_is_named(capsys, tmp_path):
    code, _, err = call(capsys, "datasets", "--lake", tmp_path / "none")
    assert code == 2
    assert "no lake at" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("verb", ["datasets", "mixtures", "runs", "scorers", "formats", "fits"])
def test_lists_are_items_with_names_and_a_line_each(capsys, curated, verb):
    lake = ("--lake", curated / "lake")
    items = answer(capsys, verb, *lake)["items"]
    assert items
    assert all(("run_id" if verb == "runs" else "name") in item for item in items)
    code, out, _ = call(capsys, verb, *lake)
    assert code == 0
    assert len(out.splitlines()) == 1 + len(items)


def test_datasets_and_mixtures_count(capsys, curated):
    lake = ("--lake", curated / "lake")
    (dataset,) = answer(capsys, "datasets", *lake)["items"]
    episodes = answer(capsys, "query", *lake)["items"]
    assert dataset["episodes"] == len(episodes)
    assert dataset["steps"] == sum(row["n_steps"] for row in episodes)
    assert {"episodes", "steps", "mixture_id"} <= answer(capsys, "mixtures", *lake)["items"][0].keys()
