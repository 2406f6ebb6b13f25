from __future__ import annotations

from tests.api.commands import answer, call, refusal


def test_recipes_are_shown_checked_and_resolved(capsys, curated):
    recipe = curated / "recipe.yaml"
    assert answer(capsys, "recipe", "validate", recipe)["valid"]
    rendered = answer(capsys, "recipe", "render", recipe, "--set", "mixture.seed=5")
    assert rendered["mixture"]["seed"] == 5
    assert "properties" in answer(capsys, "recipe", "schema")
    code, out, _ = call(capsys, "recipe", "template")
    assert code == 0
    assert out.startswith("# A recipe")


def test_a_recipe_without_its_source_says_which_key(capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text("source: {format: auto}\nselect: [{name: all, method: filter}]\n")
    line = refusal(capsys, "curate", tmp_path / "recipe.yaml", "--lake", tmp_path / "lake")
    assert "--set source.uri=" in line
    assert not (tmp_path / "lake").exists()


def test_curating_again_gives_the_same_and_onto_something_else_is_refused(capsys, curated):
    again = ("curate", curated / "recipe.yaml", "--engine", "plain", "--lake", curated / "lake")
    first = answer(capsys, *again)
    code, out, _ = call(capsys, *again)
    assert code == 0
    assert first["mixture_id"] in out
    assert str(curated / "out") in out
    (curated / "other").mkdir()
    (curated / "other" / "mine.txt").write_text("mine")
    line = refusal(capsys, *again, "--set", f"export.0.uri={curated / 'other'}")
    assert "is not empty" in line
    assert [path.name for path in (curated / "other").iterdir()] == ["mine.txt"]


def test_selections_are_compared(capsys, curated):
    lake = ("--lake", curated / "lake")
    told = answer(capsys, "selections", "diff", "towards", "anyone", *lake)
    counts = {item["name"]: item["episodes"] for item in answer(capsys, "selections", "list", *lake)["items"]}
    assert told["both"] + len(told["only_first"]) == counts["towards"]
    assert told["both"] + len(told["only_second"]) == counts["anyone"]
    for item in told["items"]:
        here, there = ("first", "second") if item["in"] == "first" else ("second", "first")
        assert item[here].startswith("chosen: ")
        assert not item[there].startswith("chosen: ")
    assert {item["episode_id"] for item in told["items"]} == {*told["only_first"], *told["only_second"]}
    assert told["inputs"]["method"] == ["transport", "random"]
    same = answer(capsys, "selections", "diff", "towards", "towards", *lake)
    assert (same["items"], same["inputs"], same["reweighed"], same["both"]) == ([], {}, 0, counts["towards"])
    code, out, _ = call(capsys, "selections", "diff", "towards", "anyone", *lake)
    assert code == 0
    assert f"{told['both']} in both" in out
    assert 'method: "transport" | "random"' in out


def test_a_selection_shows_why_each_episode_is_in_or_out(capsys, curated):
    lake = ("--lake", curated / "lake")
    shown = answer(capsys, "selections", "show", "towards", *lake)
    assert len(shown["items"]) == shown["chosen"] + shown["left_out"] + shown["targets"]
    assert [item["rank"] for item in shown["items"][: shown["chosen"]]] == list(range(shown["chosen"]))
    assert all(item["reason"] for item in shown["items"])
    assert shown["report"]["targets"] == shown["targets"] > 0
    last = shown["items"][-1]["episode_id"]
    (one,) = answer(capsys, "selections", "show", shown["selection_id"], "--episode", last, *lake)["items"]
    assert one == shown["items"][-1]
    code, out, _ = call(capsys, "selections", "show", "towards", "--limit", "2", *lake)
    assert code == 0
    assert f"... {len(shown['items']) - 2} more" in out
    assert "did not look at episode 'ep_0'" in refusal(
        capsys, "selections", "show", "towards", "--episode", "ep_0", *lake
    )


def test_strata_are_chosen_from_the_command_line_and_sets_are_made_of_selections(capsys, curated):
    lake = ("--lake", curated / "lake")
    named = ("select", "--method", "random", "--name", "each", "--budget", "4", "--within", "task", "--shares", "equal")
    assert answer(capsys, *named, *lake)["chosen"] == 4
    both = ("select", "--method", "union", "--name", "both", "-o", "of=[each, anyone]")
    union = answer(capsys, *both, *lake)
    assert union["chosen"] == union["candidates"] >= 6
    line = refusal(capsys, "select", "--method", "union", "--name", "x", "-o", "of=[each, nobody]", *lake)
    assert "no selection 'nobody'" in line
    assert "within" in refusal(capsys, *named[:-4], "--within", "colour", *lake)
