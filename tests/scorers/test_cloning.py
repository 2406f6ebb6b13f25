import numpy as np
import pytest
import torch

from data_engine.reference import Reference
from data_engine.scoring import Fit
from scorers.cloning import Clones, Demonstrations, _key, _parts


def fitted(batch, **options):
    reference = Reference([batch], seed=0, budget=20_000)
    return Clones.fit(
        reference, **{"seed": 0, "folds": 3, "members": 2, "horizon": 2, "limit": 200, **options}
    ), reference


def views(clones, reference):
    (group,) = reference.groups
    return [clones.views[group].measure(raw) for raw in reference.groups[group]]


@pytest.fixture(scope="module")
def small(batch_of):
    """12 episodes of two tasks and two of a third: the action leads to the task's goal."""
    draw = np.random.default_rng(0)
    states, actions, tasks = [], [], []
    for number in range(14):
        task = "rare" if number > 11 else ("left", "right")[number % 2]
        goal = {"left": -1.0, "right": 1.0, "rare": 0.0}[task]
        state = draw.normal(size=(20 + number, 3))
        states.append(state)
        actions.append(0.5 * (goal - state) + draw.normal(0, 0.01, state.shape))
        tasks.append(task)
    return batch_of(states, actions, tasks)


@pytest.fixture(scope="module")
def trained(small):
    torch.set_num_threads(1)
    return fitted(small)


def test_folds_are_even_within_a_task_and_known_to_newcomers(trained):
    clones, reference = trained
    (group,) = clones.cuts
    assert clones.tasks[group] == ["left", "right"]
    assert set(clones.cuts[group]) == {"", "left", "right"}
    for task in ("left", "right"):
        own = [clones.fold(view) for view in views(clones, reference) if view.task == task]
        assert sorted(own) == [0, 0, 1, 1, 2, 2]


def test_an_episode_is_never_expected_from_itself(trained):
    clones, reference = trained
    found = views(clones, reference)
    fold = np.array([clones.fold(view) for view in found])
    learns, stops = _parts(fold, [_key(0, view) for view in found], 3, 2)
    for member in range(6):
        mine = fold == member // 2
        assert not (learns[member] | stops[member])[mine].any()
        assert (learns[member] ^ stops[member])[~mine].all()
    assert not (stops[0] & stops[1]).any()  # members of a fold hold out other episodes


def test_error_is_the_formula(trained):
    clones, reference = trained
    view = views(clones, reference)[0]
    steps = clones.steps(view)
    expected = clones.expected(view, steps)
    assert expected.shape == (2, len(view.state), 2, 3)
    got = steps.error(expected.mean(axis=0))
    for i in (0, 5, len(got) - 1):
        ahead = [h for h in range(2) if i + h < len(got)]
        each = [((expected[:, i, h].astype(float).mean(0) - view.action[i + h]) ** 2).sum() for h in ahead]
        assert got[i] == pytest.approx(np.mean(each), rel=1e-5)
    assert got.mean() < 0.5 * (view.action.astype(float) ** 2).sum(1).mean()  # the second action is noise to it


def test_a_stored_fit_expects_the_same(small):
    clones, reference = fitted(small)
    again = Clones.load(Fit("x", "1", {}, 0, (), arrays=clones.arrays(), meta=clones.meta()))
    for view in views(clones, reference)[:3]:
        np.testing.assert_array_equal(
            again.expected(view, again.steps(view)), clones.expected(view, clones.steps(view))
        )
    rare = next(view for view in views(clones, reference) if view.task == "rare")
    assert clones.note(rare).startswith("against every task")


def test_one_episode_has_no_policy(small):
    clones, _ = fitted(small.one(0))
    assert clones.weights == {}
    assert clones.arrays() == {}
    alone, _ = fitted(small.one(0), folds=1)
    assert len(alone.weights) == 1


def test_missing_steps_end_a_chunk(trained):
    clones, reference = trained
    view = views(clones, reference)[0]
    holed = view.__class__(**{**view.__dict__, "valid": np.r_[view.valid[:4], False, view.valid[4:]]})
    steps = Demonstrations.of([holed], clones.tasks[view.group], 2)
    assert np.flatnonzero(~steps.known[:, 1]).tolist() == [3, len(view.state) - 1]


def test_says_how_the_training_ended(trained):
    clones, _ = trained
    (ended,) = clones.trained.values()
    assert 0 < ended["iterations"] <= 200
    assert 0 < ended["held_out"] < 1
    assert ended["converged"] == (ended["iterations"] < 200)
