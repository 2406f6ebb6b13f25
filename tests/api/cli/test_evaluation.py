from __future__ import annotations

import json

from storage.lake import Lake
from tests.api.commands import answer, call, refusal
from tests.flows.test_plan import evaluated as evaluated  # the lake whose law is known


def test_a_plan_says_what_to_collect_next(capsys, evaluated):
    lake = ("--lake", evaluated.uri)
    code, out, _ = call(capsys, "evaluate", "plan", "--success", "0.8", *lake)
    assert code == 0
    assert "collect more scenes" in out
    assert "from 5 evaluated mixtures" in out
    found = answer(capsys, "evaluate", "plan", "--factor", "scenes", "--cost", "scenes=3", *lake)
    assert found["collect"] == "scenes"
    assert found["items"][0]["exponent"]["low"] < -0.5 < found["items"][0]["exponent"]["high"]


def test_too_few_evaluations_are_one_line(capsys, evaluated):
    lake = ("--lake", evaluated.uri)
    assert "0 evaluated mixtures" in refusal(capsys, "evaluate", "plan", "--task", "another", *lake)
    assert "scenes=many is not a number" in refusal(capsys, "evaluate", "plan", "--cost", "scenes=many", *lake)


def test_outcomes_come_in_and_arms_are_compared(capsys, tmp_path):
    lake = ("--lake", str(tmp_path / "lake"))
    Lake.open(lake[1], create=True)
    rows = [
        {"checkpoint": f"{arm}-{seed}", "mixture_id": f"{arm}00", "task": "reach", "initial_condition": str(start),
         "seed": seed, "success": start % 10 < (9 if arm == "good" else 2)}
        for arm in ("good", "poor") for seed in range(3) for start in range(20)
    ]  # fmt: skip
    file = tmp_path / "said.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert answer(capsys, "evaluate", "import", file, *lake)["added"] == 120
    assert answer(capsys, "evaluate", "import", file, *lake)["already"] == 120
    _, out, _ = call(capsys, "evaluate", "compare", "poor", "good", *lake)
    assert "good00 is better" in out and "McNemar" in out
    assert "no rollout of mixture 'other'" in refusal(capsys, "evaluate", "compare", "good", "other", *lake)
    file.write_text('{"checkpoint": "c"}')
    assert "row 1 of" in refusal(capsys, "evaluate", "import", file, *lake)
