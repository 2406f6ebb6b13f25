import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.selection import Candidates
from data_engine.selection.nearest import Nearest, cosines
from data_engine.selection.transport import Transport


def auc(score, truth):
    """Probability that a planted candidate scores above another."""
    return float((score[truth][:, None] > score[~truth]).mean() + 0.5 * (score[truth][:, None] == score[~truth]).mean())


def potentials(chosen):
    return np.asarray([float(reason.split("potential ")[1]) for reason in chosen.reasons])


def planted(n, d, rank, *, share=0.1, loud=1.0, seed=0, m=10):
    """Candidates of which a share lies around the targets; ``loud`` scales two directions that tell nothing."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(d, rank)))[0].T
    centre = rng.normal(size=rank)
    centre *= 3 / np.linalg.norm(centre)
    truth = np.arange(n) < share * n
    candidates, targets = rng.normal(size=(n, rank)), centre + 0.5 * rng.normal(size=(m, rank))
    candidates[truth] = centre + 0.5 * candidates[truth]
    for vectors in (candidates, targets):
        vectors[:, :2] = loud * rng.normal(size=(len(vectors), 2)) if loud > 1 else vectors[:, :2]
    noise = 1e-3 * rng.normal(size=(n + m, d))
    return candidates @ basis + noise[:n], targets @ basis + noise[n:], truth


@pytest.mark.parametrize(
    ("n", "d", "rank"),
    [(200, 256, 8), (1500, 256, 8), (400, 24, 24), (200, 400, 200)],
    ids=["low rank, d > n", "low rank", "full rank", "full rank, d > n"],
)
@pytest.mark.parametrize("whiten", [True, "auto"])
def test_planted_candidates_come_first(units, n, d, rank, whiten):
    candidates, targets, truth = planted(n, d, rank)
    chosen = Transport(whiten=whiten).select(
        units(candidates, "c"), units(targets, "t"), budget=int(truth.sum()), seed=0
    )
    assert auc(-potentials(chosen), truth) > 0.97
    assert truth[chosen.order].mean() > 0.65
    assert chosen.report["whitened"] or whiten == "auto"
    assert chosen.report["rank"] <= 0.1 * (n + 10) or not chosen.report["whitened"]
    distance = chosen.report["transport_distance"]
    assert distance["chosen"] < (0.9 if chosen.report["whitened"] else 0.95) * distance["random"]
    assert distance["chosen"] <= distance["nearest"] + 0.05


@pytest.mark.parametrize("seed", range(4))
def test_beats_unwhitened_neighbours_where_a_loud_direction_tells_nothing(units, seed):
    candidates, targets, truth = planted(500, 64, 12, loud=6.0, seed=seed)
    candidates, targets = units(candidates, "c"), units(targets, "t")
    budget = int(truth.sum())
    ours = Transport(variance=0.99).select(candidates, targets, budget=budget, seed=0)
    theirs = Nearest().select(candidates, targets, budget=budget, seed=0)
    assert truth[ours.order].mean() >= truth[theirs.order].mean()
    assert ours.report["transport_distance"]["chosen"] < ours.report["transport_distance"]["nearest"]


@pytest.mark.parametrize("large", [False, True])
def test_the_space_that_tells_the_targets_apart_better_is_taken(units, monkeypatch, large):
    if large:
        monkeypatch.setattr("data_engine.selection.transport.MAX_CELLS", 100)
    for loud, whitened in ((6.0, True), (1.0, False)):
        candidates, targets, truth = planted(500, 64, 12, loud=loud, seed=1)
        arguments = units(candidates, "c"), units(targets, "t")
        auto, always, never = (
            Transport(whiten=which, baselines=False).select(*arguments, budget=50, seed=0)
            for which in ("auto", True, False)
        )
        compared = auto.report["separation"]
        assert (compared["whitened"] - compared["unwhitened"] > 0.02) == auto.report["whitened"] == whitened
        assert auto.order.tolist() == (always if whitened else never).order.tolist()
        precision = [truth[chosen.order].mean() for chosen in (auto, always, never)]
        assert precision[0] == max(precision)
        assert 0.5 < min(compared.values()) <= max(compared.values()) <= 1


def test_one_target_says_nothing_of_the_space_and_it_is_whitened(units):
    candidates, targets, _ = planted(200, 32, 8)
    chosen = Transport(baselines=False).select(units(candidates, "c"), units(targets[:1], "t"), budget=20, seed=0)
    assert chosen.report["whitened"]
    assert chosen.report["separation"] == {"whitened": 0.5, "unwhitened": 0.5}


def test_whitening_at_full_rank_of_a_low_rank_space_is_the_trap(units):
    candidates, targets, truth = planted(200, 256, 8)
    arguments = units(candidates, "c"), units(targets, "t")
    with pytest.raises(RequestError, match="spread of cosines") as caught:
        Transport(variance=1.0, rank_share=1.0, ridge=0.0).select(*arguments, budget=20, seed=0)
    assert caught.value.code == "collapsed_space"
    fallen = Transport(variance=1.0, rank_share=1.0, ridge=0.0, on_collapse="unwhitened").select(
        *arguments, budget=20, seed=0
    )
    assert not fallen.report["whitened"]
    assert truth[fallen.order].mean() > 0.9


def test_every_target_cluster_is_served(units):
    rng = np.random.default_rng(0)
    centres = 4 * np.eye(6)[:3]
    sizes = (200, 60, 8)
    candidates = np.concatenate([c + 0.3 * rng.normal(size=(k, 6)) for c, k in zip(centres, sizes, strict=True)])
    targets = np.concatenate([c + 0.3 * rng.normal(size=(3, 6)) for c in centres])
    chosen = Transport().select(units(candidates, "c"), units(targets, "t"), budget=18, seed=0)
    assert min(np.bincount(np.repeat(range(3), sizes)[chosen.order], minlength=3)) >= 4


def test_an_outlier_source_is_left_out_and_weighs_least(units):
    candidates, targets, truth = planted(300, 32, 8, share=0.3)
    candidates[-1] = -20 * targets.mean(axis=0)
    arguments = units(candidates, "c"), units(targets, "t")
    assert len(candidates) - 1 not in Transport().select(*arguments, budget=0.3, seed=0).order
    everything = Transport().select(*arguments, budget=None, seed=0)
    assert len(everything.order) == 300
    assert everything.weights[everything.order.tolist().index(299)] < np.quantile(everything.weights, 0.05)
    assert auc(everything.weights, truth[everything.order]) > 0.95


def test_weight_falls_with_the_distance_to_the_targets(units):
    candidates, targets, _ = planted(300, 16, 16, share=0.4, m=6)
    chosen = Transport().select(units(candidates, "c"), units(targets, "t"), budget=None, seed=0)
    both = np.concatenate([candidates, targets]) - np.concatenate([candidates, targets]).mean(axis=0)
    distance = 1 - cosines(both[:300], both[300:]).max(axis=1)[chosen.order]
    ranks = [np.argsort(np.argsort(x)) for x in (chosen.weights, distance)]
    assert np.corrcoef(*ranks)[0, 1] < -0.7
    one = Transport(whiten=False).select(units(candidates, "c"), units(targets[:1], "t"), budget=None, seed=0)
    assert (np.diff(one.weights) <= 1e-12).all()  # one target: nearest first, and each weighs no less than the next


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(30, 80), m=st.integers(1, 6), d=st.integers(3, 40), seed=st.integers(0, 1000), tau=st.floats(0.01, 5)
)
def test_weights_are_positive_with_mean_one_and_every_candidate_has_a_reason(n, m, d, seed, tau):
    rng = np.random.default_rng(seed)

    def units(count, prefix):
        names = [f"{prefix}{i}" for i in range(count)]
        return Candidates(names, names, np.ones(count), rng.normal(size=(count, d)).astype(np.float32))

    chosen = Transport(tau=tau, baselines=False).select(units(n, "c"), units(m, "t"), budget=0.5, seed=seed)
    assert (chosen.weights > 0).all()
    assert chosen.weights.mean() == pytest.approx(1)
    assert len(set(chosen.order.tolist())) == len(chosen.order) == round(n / 2)
    assert [reason.startswith("chosen") for reason in chosen.reasons] == [i in set(chosen.order) for i in range(n)]
    json.dumps(chosen.report, allow_nan=False)


@pytest.mark.parametrize(("budget", "rule"), [(25, "share"), ("auto", "share"), ("auto", "folds")])
def test_neither_names_nor_order_change_the_choice(units, permuted, budget, rule):
    candidates, targets, _ = planted(150, 20, 6)
    candidates, targets = units(candidates.round(1), "c"), units(targets.round(1), "t")
    rng = np.random.default_rng(5)
    first = Transport(automatic=rule).select(candidates, targets, budget=budget, seed=2)
    other = permuted(candidates, rng.permutation(150))
    second = Transport(automatic=rule).select(other, permuted(targets, rng.permutation(10)), budget=budget, seed=2)
    assert [candidates.content_hashes[i] for i in first.order] == [other.content_hashes[i] for i in second.order]
    assert first.weights.tolist() == second.weights.tolist()
    assert first.report == second.report


def test_a_smaller_budget_is_a_prefix_of_a_larger_one(units):
    candidates, targets, _ = planted(150, 20, 6)
    arguments = units(candidates, "c"), units(targets, "t")
    small, large = (Transport().select(*arguments, budget=k, seed=0).order for k in (10, 40))
    assert small.tolist() == large[:10].tolist()


def test_automatic_budget_keeps_the_best_of_each_curve(units):
    candidates, targets, truth = planted(400, 32, 8, share=0.2)
    by_folds = Transport(automatic="folds")
    chosen = by_folds.select(units(candidates, "c"), units(targets, "t"), budget="auto", seed=0)
    assert truth[chosen.order].mean() > 0.9
    assert 10 <= len(chosen.order) < 200
    curves = chosen.report["automatic_budget"]
    assert len(curves) == 10
    for curve in curves:
        assert curve["best_k"] == curve["k"][int(np.argmin(curve["distance"]))]
    few = by_folds.select(units(candidates, "c"), units(targets[:3], "t"), budget="auto", seed=0)
    assert [curve["targets"] for curve in few.report["automatic_budget"]] == [1, 1, 1]


def test_automatic_budget_needs_two_targets_and_something_similar(units):
    candidates, targets, _ = planted(60, 8, 4)
    with pytest.raises(RequestError, match="at least two targets"):
        Transport().select(units(candidates, "c"), units(targets[:1], "t"), budget="auto", seed=0)
    far, near = (
        np.random.default_rng(0).normal([9, 0], 0.1, (40, 2)),
        np.random.default_rng(1).normal([-9, 0], 0.1, (4, 2)),
    )
    for rule, message in (("folds", "positive cosine"), ("share", "as near to a target")):
        with pytest.raises(RequestError, match=message):
            chosen_by = Transport(whiten=False, automatic=rule)
            chosen_by.select(units(far, "c"), units(near, "t"), budget="auto", seed=0)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("m", [10, 30, 100])
def test_the_automatic_size_is_about_what_was_planted(units, share, m):
    candidates, targets, truth = planted(600, 32, 8, share=share, m=m)
    chosen = Transport(baselines=False).select(units(candidates, "c"), units(targets, "t"), budget="auto", seed=0)
    assert 0.5 * share <= len(chosen.order) / 600 <= 1.5 * share
    assert truth[chosen.order].mean() > 0.8
    found = chosen.report["automatic_budget"]
    assert found["share"] == pytest.approx(len(chosen.order) / 600, abs=1e-3)
    assert found["candidates"] / found["alike"] == pytest.approx(found["share"])


def test_duplicates_tie_and_bad_vectors_spoil_nobody(units):
    candidates, targets, _ = planted(120, 16, 6)
    clean = Transport().select(units(candidates, "c"), units(targets, "t"), budget=30, seed=0)
    spoiled = np.concatenate([candidates, [np.full(16, np.nan)], [np.full(16, np.inf)], np.zeros((1, 16))])
    again = Transport().select(units(spoiled, "c"), units(targets, "t"), budget=30, seed=0)
    assert clean.order.tolist() == again.order.tolist()
    assert clean.weights.tolist() == again.weights.tolist()
    assert all(reason.startswith("left out: its vector") for reason in again.reasons[120:])
    doubled = Transport().select(units(np.repeat(candidates, 2, axis=0), "c"), units(targets, "t"), budget=None, seed=0)
    weight = np.empty(240)
    weight[doubled.order] = doubled.weights
    np.testing.assert_allclose(weight[::2], weight[1::2], rtol=1e-6)


def test_a_single_candidate_is_the_choice_and_equal_ones_are_refused(units):
    one = Transport().select(units([[1.0, 2.0]], "c"), units([[2.0, 1.0]], "t"), budget=1, seed=0)
    assert (one.order.tolist(), one.weights.tolist()) == ([0], [1.0])
    assert one.reasons == ["chosen: the only usable candidate"]
    same = units(np.ones((10, 4)), "c")
    for selector in (Transport(), Transport(whiten=False)):
        with pytest.raises(RequestError) as caught:
            selector.select(same, units(np.ones((2, 4)), "t"), budget=3, seed=0)
        assert caught.value.code == "collapsed_space"


def test_where_not_every_pair_is_in_memory_the_choice_is_the_same(units, monkeypatch):
    candidates, targets, truth = planted(900, 24, 12)
    arguments = units(candidates, "c"), units(targets, "t")
    whole = Transport().select(*arguments, budget=90, seed=0)
    monkeypatch.setattr("data_engine.selection.transport.MAX_CELLS", 100)
    some = Transport().select(*arguments, budget=90, seed=0)
    assert len(set(whole.order.tolist()) & set(some.order.tolist())) >= 88
    assert some.report["gap"] <= 0.01
    assert auc(-potentials(some), truth) > 0.97
    for name, coverage in whole.report["coverage"].items():
        assert some.report["coverage"][name] == pytest.approx(coverage, abs=1e-3)
    everyone = Transport(baselines=False).select(*arguments, budget=None, seed=0)
    assert sorted(everyone.order.tolist()) == list(range(900))
    small = Transport(baselines=False).select(*arguments, budget="auto", seed=0)
    assert len(small.order) == pytest.approx(90, rel=0.3)
    with pytest.raises(RequestError, match="too many pairs for an automatic budget by folds"):
        Transport(automatic="folds").select(*arguments, budget="auto", seed=0)


def test_deeper_than_was_looked_the_potential_alone_decides(units, monkeypatch):
    candidates, targets, _ = planted(300, 16, 8)
    monkeypatch.setattr("data_engine.selection.transport.MAX_CELLS", 100)
    monkeypatch.setattr("data_engine.selection.transport._DEEPEST", 5)
    chosen = Transport(baselines=False).select(units(candidates, "c"), units(targets, "t"), budget=200, seed=0)
    assert len(set(chosen.order.tolist())) == 200
    reasons = [chosen.reasons[at] for at in chosen.order]
    shallow = [reason.startswith("chosen: not among the nearest of any target") for reason in reasons]
    assert shallow == sorted(shallow)
    assert any(shallow)
    deep = potentials(chosen)[chosen.order[shallow.index(True) :]]
    assert (np.diff(deep) >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_beats_every_baseline_in_the_same_call(units, seed):
    candidates, targets, truth = planted(500, 64, 12, loud=6.0, seed=seed)
    chosen = Transport(variance=0.99).select(
        units(candidates, "c"), units(targets, "t"), budget=int(truth.sum()), seed=0
    )
    distance = chosen.report["transport_distance"]
    rivals = {"random", "nearest", "unwhitened", "mean_cosine"}
    assert rivals < set(distance)
    assert all(distance["chosen"] < distance[name] for name in rivals)
    assert set(chosen.report["coverage"]) == {"chosen", *rivals}


def test_sinkhorn_chooses_much_the_same(units):
    candidates, targets, _ = planted(200, 16, 6)
    arguments = units(candidates, "c"), units(targets, "t")
    exact = Transport().select(*arguments, budget=40, seed=0)
    entropic = Transport(solver="sinkhorn").select(*arguments, budget=40, seed=0)
    assert len(set(exact.order) & set(entropic.order)) >= 36
    assert entropic.report["solver"] == "sinkhorn"


def test_options_are_checked():
    assert registry.make("selectors", "transport", {"tau": 0.5}).tau == 0.5
    for wrong in ({"tau": 0.0}, {"variance": 1.5}, {"folds": 1}, {"tao": 1}):
        with pytest.raises(RequestError):
            registry.make("selectors", "transport", wrong)
