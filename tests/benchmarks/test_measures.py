import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from benchmarks.measures import auc, baselines, batch_of, measure, resampled, spearman
from benchmarks.planting import Course
from data_engine import registry

ONE = np.array(["a"] * 200)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=4, max_size=40))
@settings(max_examples=30, deadline=None)
def test_auc_is_that_of_scikit_learn(rows):
    badness, bad = np.array([float(x) for x, _ in rows]), np.array([b for _, b in rows])
    if bad.any() and not bad.all():
        assert auc(badness, bad, ONE[: len(bad)]) == pytest.approx(roc_auc_score(bad, badness))


def test_auc_compares_within_a_task_and_gives_half_for_a_null():
    badness = np.array([0.0, 1.0, 10.0, 11.0])
    bad, tasks = np.array([False, True, False, True]), np.array(["a", "a", "b", "b"])
    assert auc(badness, bad, tasks) == 1.0
    assert auc(np.array([0.0, 1.0, np.nan, 11.0]), bad, tasks) == 0.75
    assert np.isnan(auc(badness, np.zeros(4, bool), tasks))


def test_resampled_aucs_scatter_about_the_auc_and_repeat():
    draw = np.random.default_rng(0)
    bad = np.arange(200) < 60
    badness = draw.normal(size=200) + bad
    found = resampled(badness, bad, ONE, 200, 1)
    assert abs(found.mean() - auc(badness, bad, ONE)) < 0.02
    assert 0.01 < found.std() < 0.06
    np.testing.assert_array_equal(found, resampled(badness, bad, ONE, 200, 1))


def test_spearman_is_that_of_scipy_with_ties():
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 5, 50).astype(float), draw.integers(0, 3, 50).astype(float)
    assert spearman(x, y, ONE[:50]) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(np.zeros(50), y, ONE[:50]) == 0.0


def course(n, shake, task="a", seed=0):
    draw = np.random.default_rng(seed)
    time = np.arange(n) / 20
    state = np.stack([np.sin(time), np.cos(time)], axis=1) + shake * draw.normal(size=(n, 2))
    return Course(state.astype(np.float32), np.gradient(state, axis=0).astype(np.float32), time, task)


def test_jerk_tells_a_shaking_hand_whatever_its_length():
    courses = [course(80 + 10 * i, 0.0 if i % 2 else 0.01, seed=i) for i in range(6)]
    found = baselines(courses, (0, 1), 0)
    jerk = found["log dimensionless jerk"].badness
    assert jerk[::2].min() > jerk[1::2].max()
    assert found["length"].badness.tolist() == [80, 90, 100, 110, 120, 130]


def test_scorers_are_run_by_name_and_one_that_fails_is_a_line():
    courses = [course(60, 0.002, seed=i) for i in range(8)]
    broken = Course(*(x.copy() for x in (courses[0].state, courses[0].action, courses[0].time)), task="a")
    broken.state[5] = np.nan
    found = measure(batch_of([broken, *courses[1:]], fps=20), ["integrity", "no_such_scorer"])
    assert set(found.failed) == {"no_such_scorer"} and "unknown scorer" in found.failed["no_such_scorer"]
    assert np.argmax(found.figures["integrity"].badness) == 0
    assert found.figures["integrity"].headline and not found.figures["integrity.defects"].headline
    assert "integrity.length" not in found.figures  # no better direction


def test_a_scorer_that_combines_others_comes_last_and_is_told_their_scores():
    names = [name for name in registry.names("scorers") if registry.load("scorers", name).spec.needs.scores]
    if not names:
        pytest.skip("no scorer that combines others is registered")
    courses = [course(60, 0.002, seed=i) for i in range(8)]
    found = measure(batch_of(courses, fps=20), [names[0], "integrity", "action_divergence"])
    assert list(found.rows)[-1] == names[0] and not found.failed
    alone = measure(batch_of(courses, fps=20), [names[0]])
    assert np.isnan(alone.figures[names[0]].badness).all() and np.isfinite(found.figures[names[0]].badness).all()
