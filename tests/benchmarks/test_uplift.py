from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import uplift, uplift_sets
from benchmarks.planting import Course
from benchmarks.uplift import (
    ALL,
    ORACLE,
    Arm,
    Found,
    Judging,
    Kept,
    Settings,
    arms,
    badness,
    keep,
    measure_set,
    report,
    trained,
)
from benchmarks.uplift_sets import Demonstration
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
        Arm(ALL, 1.0), Arm("a", 0.25), Arm("a", 0.5), Arm("b", 0.25), Arm("b", 0.5),
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


def found(**shares: list[float]) -> Found:
    """Success by method at a half of the budget, as trainings of one task."""
    result = Found()
    for method, values in shares.items():
        arm = Arm(ALL, 1.0) if method == "everything" else Arm(method, 0.5)
        result.success[arm], result.kept_good[arm] = [np.array(values)], [0.5]
    return result


def test_the_report_says_what_helps_what_does_not_and_what_was_not_measured():
    made = found(everything=[0.4, 0.5, 0.45, 0.5], oracle=[0.9, 0.95, 1.0, 0.9], fine=[0.8, 0.95, 1.0, 0.95],
                 idle=[0.5, 0.4, 0.5, 0.45], bad=[0.1, 0.2, 0.1, 0.1])  # fmt: skip
    made.missing["absent"] = "not installed"
    lines = report("mixed", made, ["fine", "idle", "bad", "absent", "oracle"], Settings(tasks=("t",), seeds=4))
    text = "\n".join(lines)
    assert "not measured: not installed" in text
    table = text[: text.index("at 50%")]
    rows = {line.split()[0]: line for line in table.splitlines() if "%" in line}
    assert rows["fine"].endswith("helps") and rows["oracle"].endswith("helps")
    assert rows["idle"].endswith("no help shown")
    assert rows["bad"].endswith("HARMS")
    reach = text[text.index("at 50%") :]
    assert [line.split()[0] for line in reach.splitlines() if line.endswith("reached")] == ["fine"]


def test_do_no_harm_is_missed_only_by_a_loss_that_would_have_shown():
    made = found(everything=[1.0, 0.9, 1.0, 0.95], slight=[0.9, 1.0, 0.9, 1.0], bad=[0.3, 0.4, 0.2, 0.3])
    how = Settings(tasks=("t",), seeds=4)
    lines = report("clean", made, ["slight", "bad"], how)
    assert any(line.endswith("MISSED by bad (-66.2%)") for line in lines)
    del made.success[Arm("bad", 0.5)]
    assert any(line.endswith("held") for line in report("clean", made, ["slight"], how))


def test_outcomes_outlive_the_run_that_made_them(tmp_path):
    Kept(tmp_path).put("a", success=[0.5])
    assert Kept(tmp_path).get("a") == {"key": "a", "success": [0.5]}
    assert Kept(tmp_path).get("b") is None
    assert Kept(None).get("a") is None


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


def test_both_strategies_succeed_from_their_own_side(cache):
    left, right = uplift_sets.recorded(uplift_sets.plans("strategies", "window-open-v3", 2, 0), cache, serial)
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
