from __future__ import annotations

import pytest

from data_engine.errors import RequestError
from flows.outcomes import Outcome, bring_outcomes, compare_all, compare_arms, read_outcomes
from storage.lake import Lake


def rollout(
    mixture: str, seed: int, start: int, success: bool | None, task: str = "reach", over: str | None = None
) -> Outcome:
    return Outcome(checkpoint=f"{mixture}-{seed}", mixture_id=mixture, task=task, initial_condition=str(start),
                   seed=seed, success=success, preferred_over=over)  # fmt: skip


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


def test_a_winner_is_named_only_where_the_difference_would_have_shown(lake):
    good = [rollout("good", seed, start, start % 10 < 9 - seed % 2) for seed in range(5) for start in range(20)]
    fair = [rollout("fair", seed, start, start % 10 < 8 - seed % 2) for seed in range(5) for start in range(20)]
    poor = [rollout("poor", seed, start, start % 10 < 3 + seed % 2) for seed in range(5) for start in range(20)]
    near = [
        rollout("near", seed, start, start % 10 < (9, 4, 9, 7, 8)[seed]) for seed in range(5) for start in range(20)
    ]
    bring_outcomes(lake, [*good, *fair, *poor, *near])
    answer = compare_arms(lake, "good", "poor")
    assert (answer["winner"], answer["of"], answer["note"]) == ("good", "trainings", None)
    assert answer["mcnemar"]["only_second"] == 0 and answer["mcnemar"]["p"] < 1e-10
    assert compare_arms(lake, "poor", "good")["winner"] == "good"
    answer = compare_arms(lake, "good", "near")
    assert answer["winner"] is None
    assert abs(answer["difference"]["mean"]) < answer["difference"]["detectable"]
    assert "would have been detected" in answer["note"]
    ranked = compare_all(lake, ["poor", "good", "fair"])
    assert [item["name"] for item in ranked["items"]] == ["good", "fair", "poor"]
    assert len(ranked["pairs"]) == 3 and ranked["preferences"] is None


def test_one_training_of_each_is_paired_by_rollouts(lake):
    bring_outcomes(lake, [rollout("a", 1, start, start < 18) for start in range(20)])
    bring_outcomes(lake, [rollout("b", 2, start, start < 4) for start in range(20)])
    answer = compare_arms(lake, "a-1", "b-2", by="checkpoint")
    assert (answer["of"], answer["winner"]) == ("rollouts", "a-1")
    assert answer["mcnemar"] == {"only_first": 14, "only_second": 0, "p": pytest.approx(2 / 2**14)}


def test_trainings_of_other_seeds_are_paired_once_each_so_that_the_luck_of_both_counts(lake):
    lucky = (19, 1, 18, 2, 20)
    bring_outcomes(lake, [rollout("c", seed, start, start < 4) for seed in range(5) for start in range(20)])
    bring_outcomes(lake, [rollout("d", 10 + k, start, start < lucky[k]) for k in range(5) for start in range(20)])
    answers = [compare_arms(lake, *arms) for arms in (("c", "d"), ("d", "c"))]
    for answer in answers:  # whichever comes first, it is the luck of d that leaves it open
        assert (answer["of"], answer["winner"]) == ("trainings", None)
        tested = answer["mcnemar"]
        assert {tested["only_first"], tested["only_second"]} == {15 + 14 + 16, 3 + 2}  # of 100 pairs, not of 500
    assert answers[0]["difference"]["detectable"] == pytest.approx(answers[1]["difference"]["detectable"])


def test_two_trainings_that_happen_to_be_equally_far_apart_name_no_winner(lake):
    bring_outcomes(lake, [rollout("a", seed, start, start < 3) for seed in range(2) for start in range(4)])
    bring_outcomes(lake, [rollout("b", seed, start, start < 2) for seed in range(2) for start in range(4)])
    answer = compare_arms(lake, "a", "b")
    assert (answer["difference"]["low"], answer["difference"]["detectable"]) == (0.25, 0)
    assert answer["winner"] is None and answer["note"].endswith("by chance")


def test_preferences_rank_policies_that_nobody_called_successful(lake):
    said = [rollout("a", 0, start, None, over="b-0") for start in range(12)]
    said += [rollout("b", 0, start + 100, None, over="a-0") for start in range(2)]
    said += [rollout("b", 0, start + 200, None, over="c-0") for start in range(9)]
    said += [rollout("c", 0, 300, None, over="b-0"), rollout("c", 0, 301, None, over="nobody")]
    bring_outcomes(lake, said)
    answer = compare_all(lake, ["c", "a", "b"])
    assert answer["items"] == [] and answer["pairs"] == []
    assert [item["name"] for item in answer["preferences"]] == ["a", "b", "c"]
    assert [item["answers"] for item in answer["preferences"]] == [14, 24, 10]
    assert all(item["low"] <= item["strength"] <= item["high"] for item in answer["preferences"])
    with pytest.raises(RequestError, match="no comparison"):
        compare_all(lake, ["a"])


def test_files_of_outcomes_are_read_and_a_wrong_row_is_named(lake, tmp_path):
    file = tmp_path / "said.csv"
    file.write_text(
        "checkpoint,mixture_id,task,initial_condition,seed,success,progress\nc,m,reach,0,1,true,\nc,m,reach,1,1,,0.5\n"
    )
    one, two = read_outcomes(str(file))
    assert (one.success, one.progress, two.success, two.progress) == (True, None, None, 0.5)
    file.write_text("checkpoint,mixture_id,task,initial_condition,seed\nc,m,reach,0,first\n")
    with pytest.raises(RequestError, match=r"row 1 of .*seed"):
        read_outcomes(str(file))
