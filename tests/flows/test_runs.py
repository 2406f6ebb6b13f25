from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from data_engine.canonical import canonical_json, digest
from data_engine.errors import RequestError
from flows.runs import ended, named, recorded
from storage.lake import Lake

RECIPE = {"b": 1, "a": [0.5, None, "ü"]}


def rows(lake: Lake) -> list[dict]:
    return lake.scan("runs").collect().sort("ended_at", nulls_last=False).to_dicts()


def test_a_run_is_running_and_then_completed_with_its_result(lake):
    with recorded(lake, "score", RECIPE) as run:
        (row,) = rows(lake)
        assert (row["state"], row["run_id"], row["verb"]) == ("running", run.id, "score")
        assert row["recipe"] == canonical_json(RECIPE)
        assert row["recipe_hash"] == digest(canonical_json(RECIPE))
        assert row["ended_at"] is None
        run.result = {"scored": 3}
    before, after = rows(lake)
    assert before == row
    assert (after["state"], after["run_id"], after["error"]) == ("completed", run.id, None)
    assert json.loads(after["result"]) == {"scored": 3}
    assert after["ended_at"] >= after["started_at"] == row["started_at"]


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (RequestError("no such thing", fix="name another"), "failed", "no such thing (name another)"),
        (KeyboardInterrupt(), "cancelled", "KeyboardInterrupt"),
        (ValueError("a\nb"), "failed", "a\nb"),
    ],
)
def test_a_run_that_fails_says_why_and_the_error_goes_on(lake, error, state, told):
    with pytest.raises(type(error)) as caught, recorded(lake, "mix", {}) as run:
        raise error
    assert caught.value is error
    _, after = rows(lake)
    assert (after["state"], after["run_id"], after["error"], after["result"]) == (state, run.id, told, None)


def test_a_result_that_is_no_json_fails_the_run(lake):
    with pytest.raises(ValueError, match="JSON"), recorded(lake, "mix", {}) as run:
        run.result = {"value": float("nan")}
    assert [row["state"] for row in rows(lake)] == ["running", "failed"]


def test_a_run_has_the_id_that_it_was_given_and_the_next_one_its_own(lake):
    with named("run_mine"):
        with recorded(lake, "mix", {}) as first:
            pass
        with recorded(lake, "mix", {}) as second:
            pass
    assert first.id == "run_mine" != second.id


def test_an_end_is_recorded_for_a_run_that_cannot_say_so_itself(lake):
    with recorded(lake, "mix", {}) as run:
        ended(lake, "run_lost", "score", RECIPE, "failed", "its process ended")
    ended(lake, run.id, "mix", {}, "cancelled", "too late")
    states = {(row["run_id"], row["state"], row["error"]) for row in rows(lake) if row["ended_at"]}
    assert states == {(run.id, "completed", None), ("run_lost", "failed", "its process ended")}


def test_runs_are_told_apart(lake):
    with recorded(lake, "mix", {}) as one, recorded(lake, "mix", {}) as two:
        assert one.id != two.id
    assert sorted(row["state"] for row in rows(lake)) == ["completed"] * 2 + ["running"] * 2


def test_a_killed_run_stays_running(lake):
    code = (
        "import time; from flows.runs import recorded; from storage.lake import Lake\n"
        f"with recorded(Lake.open({lake.uri!r}), 'curate', {{}}):\n"
        "    print('here', flush=True); time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    victim = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert victim.stdout.readline() == "here\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    (row,) = rows(lake)
    assert (row["state"], row["ended_at"]) == ("running", None)
