import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.acting import Act, Pair, Plan, acted, drawn
from benchmarks.planting import Course

TASK = "drawer-open-v3"


def act(n, value, task="push"):
    state = np.full((n, 2), value, np.float32)
    return Act(Course(state, state, np.arange(n) / 10, task), True, (1, 3), 0.5)


def scene(plan):
    if plan.index == 1:
        return None
    n = 5 + plan.index
    return Pair(act(n, plan.index), act(n, -plan.index))


def pairs(count=20, tasks=("push", "pull")):
    return [Pair(act(9, i, tasks[i % len(tasks)]), act(9, -i, tasks[i % len(tasks)])) for i in range(count)]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_each_scene_is_drawn_once_and_the_share_holds_by_task(share):
    acts, bad = drawn(pairs(), share=share, seed=3)
    assert [abs(a.course.state[0, 0]) for a in acts] == list(range(20))
    np.testing.assert_array_equal([a.course.state[0, 0] < 0 for a in acts], bad & (np.arange(20) > 0))
    for task in ("push", "pull"):
        assert sum(b for a, b in zip(acts, bad, strict=True) if a.course.task == task) == max(2, 10 * share)


def test_seeds_draw_other_scenes_and_the_same_seed_the_same():
    first = drawn(pairs(), share=0.2, seed=0)[1]
    np.testing.assert_array_equal(first, drawn(pairs(), share=0.2, seed=0)[1])
    assert (first != drawn(pairs(), share=0.2, seed=1)[1]).any()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_lengths_do_not_tell_where_the_bad_side_takes_longer(share):
    draw = np.random.default_rng(0)
    scenes = [Pair(act(n, 1), act(n + int(draw.integers(8, 26)), -1)) for n in draw.integers(60, 180, 60)]
    acts, bad = drawn(scenes, share=share, seed=0)
    lengths = np.array([len(a.course) for a in acts], float)
    assert abs(roc_auc_score(bad, lengths) - 0.5) <= 0.021


def test_what_was_acted_is_taken_from_the_cache_and_the_rest_is_added(tmp_path):
    plans = [Plan("push", "pause", i, 0) for i in range(4)]
    first = acted("toy", scene, plans[:3], tmp_path, workers=1)
    seen = []
    whole = acted("toy", lambda plan: seen.append(plan.index) or scene(plan), plans, tmp_path, workers=1)
    assert seen == [3]
    assert len(first) == 2 and len(whole) == 3  # one scene cannot be acted
    for pair, index in zip(acted("toy", scene, plans, tmp_path, workers=1), (0, 2, 3), strict=True):
        np.testing.assert_array_equal(pair.well.course.state, scene(plans[index]).well.course.state)
        assert (pair.badly.span, pair.badly.magnitude, pair.badly.success) == ((1, 3), 0.5, True)
        assert pair.badly.course.task == "push" and type(pair.badly.course.state[0, 0]) is np.float32
    assert acted("toy", scene, plans[:1], tmp_path, workers=1)[0].well.course.state.shape == (5, 2)


def same(one, other):
    for a, b in ((one.well, other.well), (one.badly, other.badly)):
        np.testing.assert_array_equal(a.course.state, b.course.state)
        np.testing.assert_array_equal(a.course.action, b.course.action)


@pytest.fixture(scope="module")
def metaworld():
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    from benchmarks import acting_metaworld

    return acting_metaworld


@pytest.mark.parametrize("kind", ["noise", "pause", "detour", "late_failure", "strategy"])
def test_metaworld_scenes_are_of_one_length_and_come_out_as_they_should(metaworld, kind):
    pair = metaworld.perform(Plan(TASK, kind, 0, 0))
    assert len(pair.well.course) == len(pair.badly.course)
    assert pair.well.success and pair.badly.success == (kind != "late_failure")
    assert pair.well.span == (0, 0)
    start, stop = pair.badly.span
    state, action = pair.badly.course.state, pair.badly.course.action
    assert np.abs(action).max() <= 1 and state.shape[1] == 39
    if kind == "pause":
        assert 8 <= stop - start <= 25
        assert np.abs(action[start:stop, :3]).mean() < 0.1 < np.abs(action[:start, :3]).mean()
    if kind == "detour":
        out = np.linalg.norm(state[start:stop, :3] - state[start, :3], axis=1)
        assert out.max() > 0.03 and out[-1] < 0.05  # there and back
    if kind == "late_failure":
        assert stop == len(state) and start > 0.4 * len(state)
    if kind == "strategy":
        aside = pair.well.course.state[:30, 0] - pair.badly.course.state[:30, 0]
        assert np.abs(aside).max() > 0.1  # by either side
    same(pair, metaworld.perform(Plan(TASK, kind, 0, 0)))


@pytest.fixture(scope="module")
def pusht(shared_data):
    pytest.importorskip("gym_pusht", reason="the simulator is not installed")
    from benchmarks import acting_pusht

    return acting_pusht


def test_pusht_people_are_replayed_exactly(pusht, shared_data):
    for course in pusht.recordings(shared_data)[:3]:
        again = pusht.replayed(course.state[0], course.action)
        np.testing.assert_allclose(again.state[:, :2], course.state[:, :2], atol=1e-3)
        assert np.median(np.abs(again.state[:, 2:4] - course.state[:, 2:4])) < 0.01


@pytest.mark.parametrize("kind", ["noise", "pause", "detour", "late_failure", "slower"])
def test_pusht_scenes_come_out_as_they_should(pusht, shared_data, kind):
    plan = Plan("pusht", kind, 1, 0)
    pair, course = pusht.perform(plan, shared_data), pusht.recordings(shared_data)[1]
    assert pair.well.success
    np.testing.assert_array_equal(pair.well.course.action, course.action)
    start, stop = pair.badly.span
    if kind in ("pause", "detour"):
        assert pair.badly.success and stop - start == len(pair.badly.course) - len(course) >= 8
        np.testing.assert_array_equal(pair.badly.course.action[:start], course.action[:start])
        np.testing.assert_array_equal(pair.badly.course.action[stop:], course.action[start:])
    if kind == "slower":
        assert pair.badly.success and 8 <= len(pair.badly.course) - len(course) <= 25
    if kind == "late_failure":
        assert not pair.badly.success
        np.testing.assert_array_equal(pair.badly.course.action[:start], course.action[:start])
    same(pair, pusht.perform(plan, shared_data))
