from __future__ import annotations

import pytest

from tests.api.commands import answer, refusal
from tests.recordings import write_robomimic


@pytest.fixture
def recipe(tmp_path):
    source = write_robomimic(tmp_path / "reach.hdf5", episodes=2)
    path = tmp_path / "nightly.yaml"
    path.write_text(f"name: nightly\nsource: {{uri: {source}}}\nselect: [{{name: all, method: filter}}]\n")
    return path


def test_a_schedule_is_added_listed_paused_resumed_asked_for_and_removed(capsys, tmp_path, recipe):
    lake = ("--lake", tmp_path / "lake")
    made = answer(capsys, "schedule", "add", recipe, "--cron", "0 3 * * *", "--timezone", "Europe/Berlin", *lake)
    assert (made["name"], made["when"], made["state"]) == ("nightly", "cron 0 3 * * * Europe/Berlin", "active")
    (listed,) = answer(capsys, "schedule", "list", *lake)["items"]
    assert (listed["name"], listed["last"], listed["passed_over"]) == ("nightly", None, None)
    assert listed["next_due"]
    assert answer(capsys, "schedule", "pause", "nightly", *lake)["next_due"] is None
    assert answer(capsys, "schedule", "resume", "nightly", *lake)["next_due"]
    assert answer(capsys, "schedule", "run", "nightly", *lake)["name"] == "nightly"
    assert answer(capsys, "schedule", "remove", "nightly", *lake)["state"] == "removed"
    assert answer(capsys, "schedule", "list", *lake)["items"] == []


def test_what_is_wrong_is_a_line(capsys, tmp_path, recipe):
    lake = ("--lake", tmp_path / "lake")
    assert "it is not said when" in refusal(capsys, "schedule", "add", recipe, *lake)
    assert "'often' is no time" in refusal(capsys, "schedule", "add", recipe, "--every", "often", *lake)
    assert "cron" in refusal(capsys, "schedule", "add", recipe, "--cron", "99 * * * *", *lake)
    answer(capsys, "schedule", "add", recipe, "--every", "1d", *lake)
    assert "there is another" in refusal(capsys, "schedule", "add", recipe, "--every", "2d", *lake)
    assert "no schedule 'x'" in refusal(capsys, "schedule", "pause", "x", *lake)


def test_the_recipe_may_say_when(capsys, tmp_path, recipe):
    recipe.write_text(recipe.read_text() + "schedule: {interval_s: 3600}\n")
    made = answer(capsys, "schedule", "add", recipe, "--lake", tmp_path / "lake")
    assert (made["every_s"], made["when"]) == (3600, "every 3600 s")
