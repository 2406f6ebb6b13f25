from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from data_engine.errors import RequestError
from data_engine.reference import episodes
from data_engine.scoring import Fit
from scorers.cloning import Clones
from scorers.compatibility import Compatibility, _longest, judge
from tests.scorers.strategies import detours

SCORER = Compatibility(members=3, iterations=200)


def contrary(count, seed):
    """Demonstrations above the obstacle whose commands turn the other way for 15 steps, in states that are known."""
    states, actions = detours([1.0] * count, seed)
    for action in actions:
        action[12:27] = -action[12:27]
    return states, actions


def value(rows, metric):
    return np.array([next(r.value for r in row if r.metric == metric) for row in rows], dtype=float)


@pytest.fixture(scope="module")
def above(batch_of):
    """The base set: 20 demonstrations that all go above the obstacle."""
    return batch_of(*detours([1.0] * 20))


@pytest.fixture(scope="module")
def fit(above):
    torch.set_num_threads(1)
    return SCORER.fit([above])


def test_rejects_other_actions_in_known_states(above, fit, batch_of):
    own, other = batch_of(*detours([1.0] * 10, seed=5)), batch_of(*contrary(10, seed=6))
    same, unlike = SCORER.score(own, fit), SCORER.score(other, fit)
    assert value(unlike, "rejected").mean() == 1
    assert value(same, "rejected").mean() <= 0.3
    assert value(SCORER.score(above, fit), "rejected").mean() <= 0.1  # each held out of its judges
    assert value(same, "compatibility").min() > value(unlike, "compatibility").max()
    hashes = {content[:16] for content in above.content_hashes}
    for row in unlike:
        assert row[0].spans
        for span in row[0].spans:
            code, _, nearest = span.reason.partition(": nearest base demonstration ")
            assert (code, nearest in hashes) == ("incompatible_action", True)
            assert span.stop - span.start <= 11
        worst = max(row[0].spans, key=lambda span: np.nanmax(row[5].step_values[span.start : span.stop]))
        assert worst.start < 27
        assert worst.stop > 12


def test_novel_states_are_welcome(fit, batch_of):
    """Once past the parting the other way is through states that the base set never saw."""
    row = SCORER.score(batch_of(*detours([-1.0] * 5, seed=6)), fit)
    limits = next(iter(fit.meta["limits"].values()))[""]
    for found in row:
        novel = found[4].step_values >= limits["novelty"]
        assert (found[5].step_values[novel] > limits["error"]).any()
        bad = (found[5].step_values > limits["error"]) & ~novel
        assert found[2].value == pytest.approx(bad.sum() / (~novel).sum())


def test_is_the_formula(fit, batch_of):
    batch = batch_of(*detours([1.0, -1.0], seed=9))
    clones, limits = Clones.load(fit), next(iter(fit.meta["limits"].values()))[""]
    for raw, row in zip(episodes(batch), SCORER.score(batch, fit), strict=True):
        view = clones.views[raw.group].measure(raw)
        members = clones.expected(view, clones.steps(view))[:, :, 0].astype(np.float64) * np.sqrt(2)
        action = view.action.astype(np.float64) * np.sqrt(2)  # per dimension, as the view's scale has it
        novelty = members.std(axis=0).mean(axis=1)
        error = np.mean([((member - action) ** 2).mean(axis=1) for member in members], axis=0)
        np.testing.assert_allclose(row[4].step_values, novelty, rtol=1e-4)
        np.testing.assert_allclose(row[5].step_values, error, rtol=1e-4, atol=1e-7)
        known = novelty < limits["novelty"]
        bad = known & (error > limits["error"])
        want = np.where(known, 1 - np.minimum(error / limits["error"], 1), 1).mean()
        assert row[0].value == pytest.approx(want, rel=1e-4)
        share = bad.sum() / known.sum()
        assert row[2].value == pytest.approx(share)
        assert row[3].value == _longest(bad)
        assert row[1].value == float(share > limits["bad_fraction"] or _longest(bad) > limits["longest_run"])


@pytest.mark.parametrize(("bad", "run"), [([], 0), ([0, 0], 0), ([1, 1, 0, 1], 2), ([0, 1, 0, 1, 1, 1], 3)])
def test_longest_run(bad, run):
    assert _longest(np.array(bad, bool)) == run


def test_judges_one_new_demonstration(above, fit):
    good, wrong = detours([1.0], seed=22), contrary(1, seed=22)
    found = judge(fit, good[0][0], good[1][0], fps=20)
    assert found.accepted is True
    assert found.reason is None
    other = judge(fit, wrong[0][0], wrong[1][0], fps=20, group="arm/delta")
    assert other.accepted is False
    assert other.compatibility < found.compatibility
    assert other.windows
    assert {window.nearest for window in other.windows} <= set(above.content_hashes)
    assert len(other.error) == 50
    assert judge(fit, good[0][0], good[1][0], fps=20, group="hand/delta").reason.startswith(
        "the base set holds too few"
    )
    assert judge(fit, good[0][0], good[1][0][:-1], fps=20).accepted is None
    nothing = np.full((5, 2), np.nan)
    assert judge(fit, nothing, nothing, fps=20).reason == "no finite step"
    with pytest.raises(RequestError, match="made by version 1"):
        judge(replace(fit, version="1"), good[0][0], good[1][0], fps=20)
    with pytest.raises(RequestError, match="judges no demonstration"):
        judge(Fit("integrity", "1", {}, 0, ()), good[0][0], good[1][0], fps=20)


def test_order_names_and_rewards_change_nothing_and_bad_episodes_nobody(fit, batch_of):
    states, actions = detours([1.0] * 20)
    reward = pa.array(np.random.rand(50 * 20))
    other = batch_of(states[::-1], actions[::-1], name="renamed", reward=reward)
    again = SCORER.fit([other])
    assert again.id == fit.id
    for name, array in fit.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    assert again.meta == fit.meta
    clean = batch_of(states[:3], actions[:3])
    holed = [states[0], np.full_like(states[1], np.nan), states[2]]
    rows = SCORER.score(batch_of(holed, actions[:3]), fit)
    want = SCORER.score(clean, fit)
    assert [rows[i][0].value for i in (0, 2)] == [want[i][0].value for i in (0, 2)]
    assert (rows[1][0].status, rows[1][0].reason) == ("undefined", "no finite step")
    assert rows[1][-1].value == 50


def test_a_base_set_of_two_is_refused(batch_of):
    with pytest.raises(RequestError, match="no three demonstrations"):
        SCORER.fit([batch_of(*detours([1.0, 1.0]))])
