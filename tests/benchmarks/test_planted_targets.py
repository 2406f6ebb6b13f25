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


def test_without_a_loud_direction_it_is_no_worse_than_unwhitened_transport():
    case = replace(CASES[-1], candidates=400)
    found = judged(case, range(2), choose=("transport", "unwhitened transport", "random"))
    precision = {name: np.mean([one.precision for one in each]) for name, each in found.items()}
    assert precision["transport"] >= precision["unwhitened transport"] - 0.01
    assert precision["transport"] > precision["random"] + 0.3


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


def test_the_automatic_size_grows_with_what_is_planted():
    few, many = automatic((0.1, 0.4), (20,), (0,))
    assert few["chosen"] < many["chosen"]
    assert many["precision"] > few["precision"] > 0.1
