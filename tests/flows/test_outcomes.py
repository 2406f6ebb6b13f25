from __future__ import annotations

import pytest

from data_engine.errors import RequestError
from flows.outcomes import Outcome, bring_outcomes, compare_arms
from storage.lake import Lake


def rollout(mixture: str, seed: int, start: int, success: bool | None, task: str = "reach") -> Outcome:
    return Outcome(checkpoint=f"{mixture}-{seed}", mixture_id=mixture, task=task, initial_condition=str(start),
                   seed=seed, success=success)  # fmt: skip


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake.open(str(tmp_path / "lake"), create=True)


def test_the_same_rollout_is_entered_once_and_another_outcome_of_it_is_refused_whole(lake):
    one, two = rollout("a", 0, 0, True), rollout("a", 0, 1, None)
    assert bring_outcomes(lake, [one, two, one]) == {"added": 2, "already": 1}
    assert bring_outcomes(lake, [one]) == {"added": 0, "already": 1}
    for lie in ([rollout("a", 0, 0, False), rollout("a", 0, 2, True)], [one, rollout("a", 0, 0, None)]):
        with pytest.raises(RequestError, match="another outcome"):
            bring_outcomes(lake, lie)
    assert len(lake.scan("evaluations").collect()) == 2


def test_arms_that_do_not_pair_have_rates_and_a_note(lake):
    bring_outcomes(lake, [rollout("aa", 0, 0, True), rollout("aa", 0, 1, None), rollout("bb", 1, 0, False)])
    answer = compare_arms(lake, "aa", "bb")
    assert answer["difference"] is None
    assert "share no task" in answer["note"]
    assert (answer["tasks"][0]["first"]["rollouts"], answer["tasks"][0]["second"]["rate"]) == (1, 0.0)


def test_a_prefix_of_two_arms_names_neither(lake):
    bring_outcomes(lake, [rollout("ab", 0, 0, True), rollout("ac", 0, 0, True), rollout("b", 0, 0, True)])
    with pytest.raises(RequestError, match="begins 2 ids"):
        compare_arms(lake, "a", "b")
    with pytest.raises(RequestError, match="no rollout of mixture 'c'"):
        compare_arms(lake, "b", "c")
