from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.planting import CONSISTENCY, Course, spoil
from benchmarks.uplift_sets import perform, plans
from data_engine.model import ACTION, TIMESTAMP
from data_engine.scoring import EpisodeBatch
from scorers import consistency, dynamics
from scorers.consistency import Consistency
from scorers.dynamics import fold_of

SCORER = Consistency()
METRICS = [metric.name for metric in SCORER.spec.metrics]


def column(rows, name="inconsistency"):
    found = [row[METRICS.index(name)].value for row in rows]
    return np.array([np.nan if value is None else value for value in found])


def courses(states, actions, tasks=None):
    tasks = tasks or [""] * len(states)
    return [Course(s, a, np.arange(len(s)), t) for s, a, t in zip(states, actions, tasks, strict=True)]


def planted(clean, kind, batch_of, fps, share=0.2, gripper=()):
    spoilt, bad = spoil(clean, kind, share=share, seed=3, gripper=gripper)
    tasks = [course.task or None for course in spoilt]
    return batch_of([c.state for c in spoilt], [c.action for c in spoilt], tasks, fps=fps), bad


@pytest.fixture(scope="module")
def clean(pusht):
    return courses(pusht[0][:80], pusht[1][:80])


@pytest.mark.parametrize("kind", [kind for kind in CONSISTENCY if kind != "gripper_flipped"])
def test_planted_defects_in_human_recordings(clean, batch_of, auc, kind):
    batch, bad = planted(clean, kind, batch_of, 10.0)
    value = column(SCORER.score(batch, SCORER.fit([batch])))
    assert auc(value[bad], value[~bad]) >= 0.95


@pytest.mark.parametrize("kind", ["lagged", "gripper_flipped", "joined"])
def test_planted_defects_in_three_tasks(tiers, batch_of, auc, kind):
    batch, bad = planted(courses(*(x[:100] for x in tiers[:3])), kind, batch_of, 20.0, gripper=(3,))
    value = column(SCORER.score(batch, SCORER.fit([batch])))
    assert auc(value[bad], value[~bad]) >= 0.9


@pytest.mark.parametrize("kind", ["lagged", "wrong_units", "foreign"])
def test_half_of_the_episodes_may_be_wrong(clean, batch_of, auc, kind):
    batch, bad = planted(clean, kind, batch_of, 10.0, share=0.5)
    value = column(SCORER.score(batch, SCORER.fit([batch])))
    assert auc(value[bad], value[~bad]) >= 0.95


@pytest.mark.parametrize("kind", ["lagged", "reversed", "swapped", "negated", "wrong_units", "foreign"])
def test_the_defect_is_named(clean, batch_of, kind):
    batch, bad = planted(clean, kind, batch_of, 10.0)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    want = {"wrong_units": "rescaled", "foreign": "foreign_action"}.get(kind, kind)
    named = [{span.reason for span in row[0].spans} for row in rows]
    assert np.mean([want in reasons for reasons, is_bad in zip(named, bad, strict=True) if is_bad]) >= 0.75
    assert not any(reasons for reasons, is_bad in zip(named, bad, strict=True) if not is_bad)


def test_the_lag_is_told_in_steps_and_milliseconds(clean, batch_of):
    late = [c.action[np.maximum(np.arange(len(c)) - 5, 0)] if i < 8 else c.action for i, c in enumerate(clean)]
    batch = batch_of([c.state for c in clean], late, fps=10.0)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert np.median(column(rows, "lag_steps")[:8]) == 5
    np.testing.assert_allclose(column(rows, "lag_ms"), 100 * column(rows, "lag_steps"), rtol=1e-6)
    assert (column(rows, "lag_steps")[8:] == 0).all()


def test_a_jump_is_found_at_its_step(clean, batch_of):
    states = [c.state.copy() for c in clean]
    states[5][40:, :2] += 120
    batch = batch_of(states, [c.action for c in clean], fps=10.0)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert [span.start for span in rows[5][0].spans] == [40]
    assert rows[5][0].value == max(column(rows))


def test_touching_what_few_of_a_pool_ever_touch_is_no_teleport(batch_of, monkeypatch):
    pytest.importorskip("metaworld", reason="the simulator metaworld is not installed")
    demos = [perform(plan) for plan in plans("mixed", "button-press-topdown-v3", 30, 0)]
    presses = np.array([demo.success for demo in demos])
    batch = batch_of([demo.course.state for demo in demos], [demo.course.action for demo in demos])
    assert 0 < presses.mean() < 0.5
    assert column(SCORER.score(batch, SCORER.fit([batch])))[presses].max() < 0.6
    monkeypatch.setattr(dynamics, "leaps", lambda course, found, said: np.minimum(abs(said.surprise), abs(said.left)))
    # what nothing explains, though it goes on moving: the button, that only they set off
    assert np.median(column(SCORER.score(batch, SCORER.fit([batch])))[presses]) > 0.7


def test_order_ids_names_and_other_columns_change_nothing(clean, batch_of):
    some = clean[:24]
    plain = batch_of([c.state for c in some], [c.action for c in some])
    want = column(SCORER.score(plain, SCORER.fit([plain])))
    order = np.random.default_rng(0).permutation(len(some))
    other = batch_of(
        [some[i].state for i in order],
        [some[i].action for i in order],
        name="renamed",
        reward=pa.array(np.random.rand(sum(map(len, some)))),
    )
    np.testing.assert_array_equal(column(SCORER.score(other, SCORER.fit([other]))), want[order])


def test_a_newcomer_is_scored_as_it_would_be_inside_by_a_model_that_has_not_seen_it(clean, batch_of):
    some = clean[:40]
    fit = SCORER.fit([batch_of([c.state for c in some], [c.action for c in some])])
    together = column(SCORER.score(batch_of([c.state for c in some], [c.action for c in some]), fit))
    alone = column(SCORER.score(batch_of([some[7].state], [some[7].action]), fit))
    assert alone[0] == together[7]
    assert {fold_of(f"{i}") for i in range(100)} == set(range(5))


def test_bad_episodes_have_a_reason_and_leave_the_others_alone(clean, batch_of):
    some = clean[:24]
    states, actions = [c.state for c in some], [c.action for c in some]
    batch = batch_of(states, actions)
    want = column(SCORER.score(batch, SCORER.fit([batch])))
    odd = batch_of([np.full_like(states[0], np.nan), *states, states[0][:0]], [actions[0], *actions, actions[0][:0]])
    fit = SCORER.fit([odd])
    rows = SCORER.score(odd, fit)
    np.testing.assert_array_equal(column(rows)[1:-1], want)
    assert rows[0][0].reason == "only 0 steps can be predicted, of 8 at least"
    assert rows[-1][0].reason == "no steps"
    short = SCORER.score(batch_of([states[0][:6]], [actions[0][:6]]), fit)
    assert short[0][0].reason == "only 2 steps can be predicted, of 8 at least"
    assert [row.metric for row in rows[0]] == METRICS


def test_unobservable_where_actions_reach_nothing(clean, batch_of):
    some = clean[:24]
    draw = np.random.default_rng(0)
    batch = batch_of([c.state for c in some], [draw.normal(size=c.action.shape) for c in some])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert all(row[0].status == "undefined" and row[0].reason.startswith("unobservable") for row in rows)
    few = batch_of([c.state for c in some[:3]], [c.action for c in some[:3]])
    assert SCORER.score(few, SCORER.fit([few]))[0][0].reason.startswith("fewer than 4 reference episodes")


def test_missing_actions_are_said(clean, batch_of):
    some = clean[:8]
    batch = batch_of([c.state for c in some], [c.action for c in some])
    bare = EpisodeBatch(batch.dataset, batch.episodes, batch.steps.drop_columns([ACTION]), batch.offsets)
    assert SCORER.score(bare, SCORER.fit([batch]))[0][0].reason == "no numeric action"


def test_gaps_in_time_are_not_predicted_across(clean, batch_of):
    some = clean[:24]
    batch = batch_of([c.state for c in some], [c.action for c in some], fps=10.0)
    times = batch.steps.column(TIMESTAMP).to_numpy().copy()
    times[20 : batch.offsets[1]] += 3.0
    steps = batch.steps.set_column(batch.steps.column_names.index(TIMESTAMP), TIMESTAMP, [times])
    gapped = EpisodeBatch(batch.dataset, batch.episodes, steps, batch.offsets)
    row = SCORER.score(gapped, SCORER.fit([batch]))[0][0]
    assert np.flatnonzero(np.isnan(row.step_values)).tolist() == [0, 1, 2, 19, 20, 21, len(some[0]) - 1]


@pytest.mark.parametrize("rows", [8, 9, 30])
def test_what_contradicts_is_shown_in_courses_shorter_than_the_window_too(rows):
    draw = np.random.default_rng(0)
    left, surprise = draw.normal(size=(2, rows, 3))
    found, response = SimpleNamespace(step=np.arange(2, rows + 2)), SimpleNamespace(left=left, surprise=surprise)
    shown = consistency._contradicted(found, response, np.ones((rows, 3)), rows + 4)
    assert np.flatnonzero(np.isfinite(shown)).tolist() == found.step.tolist()
    against = (left**2 - surprise**2).sum(axis=1)
    want = [against[max(i - 4, 0) : i + 5].sum() / 9 for i in range(rows)]
    np.testing.assert_allclose(shown[found.step], want)
