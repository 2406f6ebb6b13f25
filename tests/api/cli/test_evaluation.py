from __future__ import annotations

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
