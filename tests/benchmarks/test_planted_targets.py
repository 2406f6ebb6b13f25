from dataclasses import replace

import numpy as np
import pytest

from benchmarks.planted_targets import CASES, METHODS, automatic, judge, judged, planted

LOUD = [case for case in CASES if case.loud > 1]


@pytest.mark.parametrize("case", LOUD, ids=lambda case: case.name)
def test_transport_beats_every_baseline_in_what_it_did_not_optimise(case):
    found = judged(replace(case, candidates=min(case.candidates, 600)), range(3))
    mean = {
        name: {figure: np.mean([getattr(one, figure) for one in each]) for figure in ("precision", "loss", "worst")}
        for name, each in found.items()
    }
    ours = mean["transport"]
    for name in METHODS:
        if name != "transport":
            assert ours["loss"] < mean[name]["loss"], name
            assert ours["worst"] < mean[name]["worst"], name
            assert ours["precision"] > mean[name]["precision"], name


@pytest.mark.parametrize("case", [case for case in CASES if case.loud == 1], ids=lambda case: case.name)
def test_without_a_loud_direction_it_is_no_worse_than_unwhitened_transport(case):
    found = judged(
        replace(case, candidates=400), range(2), choose=("transport", "unwhitened transport", "nearest", "random")
    )
    precision = {name: np.mean([one.precision for one in each]) for name, each in found.items()}
    assert precision["transport"] >= precision["unwhitened transport"] - 0.01
    assert precision["transport"] > precision["random"] + 0.3
    assert precision["transport"] >= precision["nearest"] - 0.03  # whose cosines are about the origin, not the middle


def test_what_is_judged_is_best_for_what_was_planted():
    problem = planted(CASES[0], 0)
    truth, other = np.flatnonzero(problem.truth), np.flatnonzero(~problem.truth)
    right, wrong = judge(problem, truth), judge(problem, other[: len(truth)])
    assert right.precision == 1
    assert wrong.precision == 0
    assert right.loss < 0.5 * wrong.loss
    assert right.worst < wrong.worst
    lacking = judge(problem, truth[problem.our_cluster[truth] != 4])  # the rarest cluster
    assert lacking.worst > right.worst + 0.5
    assert lacking.loss > right.loss
    copies = len(problem.truth) - len(np.unique(problem.ours, axis=0))
    assert copies == len(problem.truth) // 10


def test_the_automatic_size_is_about_what_is_planted():
    rows = automatic((0.1, 0.4), (30,), (0, 1))
    few, many = (row for row in rows if row["rule"] == "share")
    for row, by_folds in zip((few, many), (row for row in rows if row["rule"] == "folds"), strict=True):
        assert row["chosen"] == pytest.approx(row["planted"], rel=0.4)
        assert abs(row["chosen"] - row["planted"]) < abs(by_folds["chosen"] - row["planted"])
        assert row["precision"] > by_folds["precision"] and row["loss"] < by_folds["loss"]
    assert many["precision"] > few["precision"] > 0.4
