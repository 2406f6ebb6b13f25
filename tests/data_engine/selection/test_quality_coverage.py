import dataclasses
from itertools import combinations

import numpy as np
import pytest

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.selection.coverage import Coverage
from data_engine.selection.neighbours import directions
from data_engine.selection.quality_coverage import QualityCoverage, ranks


def scored(candidates, scores):
    return dataclasses.replace(candidates, scores=np.asarray(scores, dtype=np.float64))


def test_takes_the_best_of_each_cloud(units):
    rng = np.random.default_rng(0)
    vectors = np.tile(5 * np.eye(4), (10, 1)) + 0.2 * rng.normal(size=(40, 4))
    scores = rng.normal(size=40)
    chosen = QualityCoverage(by="composite").select(scored(units(vectors, "c"), scores), None, budget=4, seed=0)
    assert sorted((chosen.order % 4).tolist()) == [0, 1, 2, 3]
    for at in chosen.order.tolist():
        assert scores[at] >= np.sort(scores[at % 4 :: 4])[-2]
    assert chosen.report["mean_rank"]["chosen"] > 0.8 > chosen.report["mean_rank"]["everything"]


@pytest.mark.parametrize("seed", range(4))
def test_holds_the_bound_of_its_own_objective_against_brute_force(units, seed):
    rng = np.random.default_rng(seed)
    vectors, scores = rng.normal(size=(9, 3)), rng.normal(size=9)
    unit = directions(vectors, centre=True)
    quality = 0.1 + 0.9 * np.argsort(np.argsort(scores)) / 8

    def worth(some):
        some = list(some)
        return (np.maximum(unit @ unit[some].T, 0) * quality[some]).max(axis=1) @ quality

    chosen = QualityCoverage(by="x").select(scored(units(vectors, "c"), scores), None, budget=3, seed=0)
    best = max(worth(some) for some in combinations(range(9), 3))
    assert (1 - 1 / np.e) * best <= worth(chosen.order) <= best + 1e-6


def test_without_strength_it_is_coverage_and_unknown_scores_are_left_out_and_said(units):
    rng = np.random.default_rng(1)
    candidates = scored(units(rng.normal(size=(50, 4)), "c"), rng.normal(size=50))
    alike = QualityCoverage(by="x", strength=0).select(candidates, None, budget=12, seed=0)
    assert alike.order.tolist() == Coverage().select(candidates, None, budget=12, seed=0).order.tolist()
    candidates.scores[7] = np.nan
    chosen = QualityCoverage(by="x").select(candidates, None, budget=None, seed=0)
    assert len(chosen.order) == 49
    assert chosen.reasons[7] == "left out: x is not known of it"
    candidates.scores[:] = np.nan
    assert len(QualityCoverage(by="x").select(candidates, None, budget=3, seed=0).order) == 0
    with pytest.raises(RequestError, match="come without x"):
        QualityCoverage(by="x").select(units(np.eye(3), "c"), None, budget=1, seed=0)


def test_ranks_are_shares_of_the_others():
    assert ranks(np.array([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert ranks(np.array([1.0, 1.0, 5.0])).tolist() == [0.25, 0.25, 1.0]
    assert ranks(np.array([4.0])).tolist() == [1.0]


def test_needs_the_name_of_a_score():
    assert registry.make("selectors", "quality_coverage", {"by": "composite"}).needs_score == "composite"
    with pytest.raises(RequestError, match="by is missing"):
        registry.make("selectors", "quality_coverage")
