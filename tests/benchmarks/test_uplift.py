from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import uplift, uplift_sets
from benchmarks.planting import Course
from benchmarks.uplift import Judging, badness, judged, keep, measure_set, trained, versions
from benchmarks.uplift_arms import ALL, ORACLE, Arm, Settings, arms
from benchmarks.uplift_sets import Demonstration
from data_engine import registry
from flows.policy import PolicyConfig


def demonstration(length: int, success: bool, noise: float = 0.1, slope: float = 1.0, seed: int = 0) -> Demonstration:
    """A point in the plane whose action is ``slope`` times where it is."""
    state = np.random.default_rng(seed).normal(size=(length, 3)).astype(np.float32)
    return Demonstration(Course(state, slope * state[:, :2], np.arange(length) / 20, "t"), "good", success, noise)


def serial(function, items):
    return [function(item) for item in items]


def test_the_least_bad_are_kept_and_ties_are_broken_without_the_order():
    assert np.flatnonzero(keep(np.array([5.0, 1, 3, 2, 4]), 0.6, 0)).tolist() == [1, 2, 3]
    assert np.flatnonzero(keep(np.array([5.0, 1, 3, 2, 4]), 0.1, 0)).tolist() == [1, 3]  # never fewer than two
    firsts = [np.flatnonzero(keep(np.zeros(40), 0.5, seed)).mean() for seed in range(20)]
    assert 17 < np.mean(firsts) < 22


def test_the_baselines_and_the_oracle_order_by_what_they_say():
    demos = [demonstration(30, False), demonstration(50, True, 0.15), demonstration(40, True, 0.02)]
    order = {
        method: np.argsort(badness(Judging("t", demos, [], method, 0))).tolist() for method in ("shortest", ORACLE)
    }
    assert order == {"shortest": [0, 2, 1], ORACLE: [2, 1, 0]}


def test_sets_that_selection_can_only_harm_are_halved():
    assert arms("mixed", ["a", "b"], (0.25, 0.5)) == [
        Arm(ALL, 1.0), Arm("a", 0.25), Arm("b", 0.25), Arm("a", 0.5), Arm("b", 0.5),
    ]  # fmt: skip
    assert arms("clean", ["a"], (0.25, 0.5)) == [Arm(ALL, 1.0), Arm("a", 0.5)]


def test_each_policy_learns_from_what_is_kept_for_it_alone():
    demos = [demonstration(60, True, slope=slope, seed=seed) for seed, slope in enumerate([1, 1, 1, 1, -1, -1, -1, -1])]
    good = np.arange(8) < 4
    config = PolicyConfig(limit=800, horizon=2, execute=1, hidden=32)
    first, second = trained(demos, np.stack([good, ~good]), config, 0)
    state = np.array([[0.7, -0.4, 0.0]])
    np.testing.assert_allclose(first.act(state, "")[0], [0.7, -0.4], atol=0.15)
    np.testing.assert_allclose(second.act(state, "")[0], [-0.7, 0.4], atol=0.15)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("metaworld", reason="the simulator metaworld is not installed")
    return tmp_path_factory.mktemp("cache")


def test_people_are_what_they_are_said_to_be_and_a_plan_gives_the_same_again(cache):
    work = uplift_sets.plans("mixed", "window-open-v3", 6, 0)
    demos = uplift_sets.recorded(work, cache, serial)
    assert [demo.success for demo in demos] == [demo.kind == "good" for demo in demos]
    again = uplift_sets.recorded(work, cache, None)  # from the folder
    for one, other in zip(demos, again, strict=True):
        np.testing.assert_array_equal(one.course.state, other.course.state)
        assert (one.kind, one.success, one.noise) == (other.kind, other.success, other.noise)
    np.testing.assert_array_equal(uplift_sets.perform(work[3]).course.action, demos[3].course.action)


@pytest.mark.parametrize("task", uplift_sets.TASKS)
def test_both_strategies_succeed_from_their_own_side(cache, task):
    left, right = uplift_sets.recorded(uplift_sets.plans("strategies", task, 2, 0), cache, serial)
    assert left.success and right.success
    middle = [np.mean(demo.course.state[5:20, 0] - demo.course.state[0, 0]) for demo in (left, right)]
    assert middle[0] < middle[1]


def test_a_small_run_measures_every_arm_once(cache, monkeypatch):
    how = Settings(tasks=("window-open-v3",), candidates=6, targets=2, budgets=(0.5,), seeds=2, rollouts=1,
                   config=PolicyConfig(limit=40, hidden=16))  # fmt: skip
    first = measure_set("mixed", ["shortest", ORACLE, "nonsense"], how, cache, serial)
    assert set(first.success) == {Arm(ALL, 1.0), Arm("shortest", 0.5), Arm(ORACLE, 0.5)}
    assert "unknown scorer 'nonsense'" in first.missing["nonsense"]
    assert all(len(rows) == 1 and len(rows[0]) == 2 for rows in first.success.values())
    assert first.kept_good[Arm(ORACLE, 0.5)] == [pytest.approx(2 / 3)]
    monkeypatch.setattr(uplift, "trained", None)
    again = measure_set("mixed", ["shortest", ORACLE], how, cache, serial)
    assert {arm: rows[0].tolist() for arm, rows in again.success.items()} == {
        arm: rows[0].tolist() for arm, rows in first.success.items()
    }


def test_nothing_new_is_begun_when_the_time_is_over(cache):
    how = Settings(tasks=("window-open-v3",), candidates=6, targets=2, budgets=(0.5,), seeds=2, seed=1)
    found = measure_set("mixed", ["random", "shortest"], how, cache, serial, until=0.0)
    assert not found.success
    assert found.missing == {"shortest": "no time was left"}
    assert found.open == [Arm(ALL, 1.0), Arm("random", 0.5)]


def test_a_table_names_the_versions_of_what_it_measured():
    said = versions(["random", "composite", "influence"])
    assert said.startswith("composite ") and ", influence " in said and "random" not in said
    for part in ("composite", "consistency", "extraneous"):
        assert f"{part} {registry.load('scorers', part).spec.version}" in said
    assert versions(["random", ORACLE]) == "no scorer"


def test_a_score_that_combines_others_is_told_what_they_find(cache):
    demos = uplift_sets.recorded(uplift_sets.plans("mixed", "window-open-v3", 10, 0), cache, serial)
    values = badness(Judging("window-open-v3", demos, [], "composite", 0))
    assert len(set(values)) > 5 and np.isfinite(values).all()


def test_a_score_that_says_nothing_of_any_episode_is_not_measured():
    said = judged(Judging("t", [demonstration(30, True)] * 3, [], "task_match", 0))
    assert said == "it is undefined for every episode"


def test_people_of_pusht_go_through_the_whole_of_it(shared_data, tmp_path):
    pytest.importorskip("gym_pusht", reason="the simulator gym_pusht is not installed")
    how = Settings(tasks=(uplift_sets.PUSHT,), candidates=5, targets=2, budgets=(0.5,), seeds=2, rollouts=1,
                   config=PolicyConfig(limit=40, hidden=16))  # fmt: skip
    found = measure_set("pusht", ["random", ORACLE], how, tmp_path, serial, shared_data)
    assert not (found.missing or found.open)
    assert found.kept_good[Arm(ORACLE, 0.5)] == [1.0] > found.kept_good[Arm(ALL, 1.0)]
    assert all(0 <= share <= 1 for (row,) in found.success.values() for share in row)
    demos, targets = uplift_sets.pusht(5, 2, 0, shared_data, tmp_path)
    assert [demo.success for demo in demos] == [False] * 3 + [True] * 2
    assert not {id_of(demo) for demo in demos} & {id_of(demo) for demo in targets}


def id_of(demo: Demonstration) -> bytes:
    return demo.course.state[0].tobytes()
