import numpy as np
import pytest

from benchmarks.planting import Course, spoil
from scorers.task_match import TaskMatch

SCORER = TaskMatch()


def odds(rows):
    return np.array([np.nan if row[0].value is None else row[0].value for row in rows])


@pytest.fixture(scope="module")
def clean(tiers):
    return [Course(s, a, np.arange(len(s)), t) for s, a, t in zip(*tiers[:3], strict=True)]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_swapped_labels(clean, batch_of, auc, share):
    spoilt, bad = spoil(clean, "mislabelled", share=share, seed=0)
    batch = batch_of([c.state for c in spoilt], [c.action for c in spoilt], [c.task for c in spoilt])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    value = odds(rows)
    assert auc(value[~bad], value[bad]) >= 0.95
    named = [row[0].reason == f"likelier: {course.task}" for row, course in zip(rows, clean, strict=True)]
    assert np.mean(np.array(named)[bad]) >= 0.8
    assert np.mean(value[~bad] > 0) >= 0.9


def test_an_episode_never_speaks_for_itself(clean, batch_of):
    """One alien among a task's episodes is alien, though it is in the reference twice."""
    alien = next(c for c in clean if c.task.startswith("drawer"))
    others = [c for c in clean if c.task.startswith("pick") or (c.task.startswith("drawer") and c is not alien)]
    label = next(c.task for c in others if c.task.startswith("pick"))
    batch = batch_of(
        [c.state for c in others] + [alien.state] * 2,
        [c.action for c in others] + [alien.action] * 2,
        [c.task for c in others] + [label] * 2,
    )
    assert (odds(SCORER.score(batch, SCORER.fit([batch])))[-2:] < 0).all()


def test_reasons(clean, batch_of):
    one = [c for c in clean if c.task == clean[0].task]
    alone = batch_of([c.state for c in one], [c.action for c in one], [c.task for c in one])
    assert SCORER.score(alone, SCORER.fit([alone]))[0][0].reason == "only one task in the reference"
    tasks = ["rare"] * 2 + [c.task for c in clean[2:28]] + [None]
    some = batch_of([c.state for c in clean[:29]], [c.action for c in clean[:29]], tasks)
    rows = SCORER.score(some, SCORER.fit([some]))
    assert rows[0][0].reason == "only 2 episodes of its task, of 3"
    assert rows[-1][0].reason == "no task"
    assert rows[5][0].status == "ok"
    broken = batch_of([np.full_like(clean[0].state, np.nan)], [clean[0].action], [clean[0].task])
    assert SCORER.score(broken, SCORER.fit([some]))[0][0].reason == "no finite step"


def test_order_and_names_change_nothing(clean, batch_of):
    some = clean[:40]
    batch = batch_of([c.state for c in some], [c.action for c in some], [c.task for c in some])
    want = odds(SCORER.score(batch, SCORER.fit([batch])))
    back = some[::-1]
    other = batch_of([c.state for c in back], [c.action for c in back], [c.task for c in back], name="renamed")
    np.testing.assert_allclose(odds(SCORER.score(other, SCORER.fit([other])))[::-1], want, rtol=1e-9)
