import numpy as np
import pytest
import torch

from scorers.kernels.response import PAST, TAPS, Rows, concordance, curved, fit, held_rows, respond, rows


def recording(n=200, ds=3, da=2, seed=0):
    draw = np.random.default_rng(seed)
    action = draw.normal(size=(n, da))
    state = np.cumsum(draw.normal(size=(n, ds)) * 0.1, axis=0)
    state[:, 0] = np.concatenate([[0.0], np.cumsum(action[:-1, 1])])  # the second action moves the first coordinate
    return state, action


def even(state):
    return np.ones(len(state) - 1)


def test_rows_hold_the_actions_before_and_the_own_past():
    state, action = recording(20)
    found = rows(state, action, even(state))
    np.testing.assert_array_equal(found.step, np.arange(TAPS - 1, 19))
    t = found.step[4]
    np.testing.assert_array_equal(found.action[4].reshape(TAPS, 2), action[[t, t - 1, t - 2, t - 3]])
    np.testing.assert_array_equal(found.own[4, :, 0], state[t])
    np.testing.assert_allclose(found.own[4, :, 1:].T, [state[t] - state[t - 1], state[t - 1] - state[t - 2]])
    np.testing.assert_allclose(found.motion[4], state[t + 1] - state[t])


@pytest.mark.parametrize("shift", [-5, 3])
def test_a_shift_takes_actions_from_later_and_never_from_outside(shift):
    state, action = recording(30)
    found = rows(state, action, even(state), shift)
    for row, t in zip(found.action.reshape(len(found), TAPS, 2), found.step, strict=True):
        np.testing.assert_array_equal(row, action[t + shift - np.arange(TAPS)])
        assert t + shift - TAPS + 1 >= 0


def test_what_is_missing_leaves_out_the_steps_that_need_it():
    state, action = recording(40)
    pace = even(state)
    action[10, 0], pace[30] = np.nan, np.nan
    found = rows(state, action, pace)
    gone = set(range(TAPS - 1, 39)) - set(found.step.tolist())
    assert gone == {10, 11, 12, 13} | set(range(30, 30 + PAST + 1))


def test_held_rows_hold_what_changes_later_and_the_mean_command_until_then():
    state, action = recording(30)
    found = held_rows(state, action, even(state), 6)
    np.testing.assert_array_equal(found.step, np.arange(PAST, 24))
    t = found.step[5]
    np.testing.assert_allclose(found.motion[5], state[t + 6] - state[t])
    np.testing.assert_allclose(found.action[5], action[t : t + 6].mean(axis=0))
    np.testing.assert_array_equal(
        found.own[5], rows(state, action, even(state)).own[list(range(TAPS - 1, 29)).index(t)]
    )
    assert len(held_rows(state[:8], action[:8], even(state[:8]), 6)) == 0


def test_held_rows_leave_out_steps_that_look_across_what_is_missing():
    state, action = recording(40)
    pace = even(state)
    action[10, 0], pace[30] = np.nan, np.nan
    found = held_rows(state, action, pace, 4)
    assert set(range(PAST, 36)) - set(found.step.tolist()) == set(range(7, 11)) | set(range(27, 33))


def test_weights_are_those_of_least_squares():
    state, action = recording()
    found = rows(state, action, even(state))
    (model,) = fit(found)
    for j in range(3):
        features = np.concatenate([found.action, found.own[:, j], np.ones((len(found), 1))], axis=1)
        want = np.linalg.lstsq(features, found.motion[:, j], rcond=None)[0]
        np.testing.assert_allclose(model.weight[j], want[:-1], atol=1e-4)
        np.testing.assert_allclose(model.intercept[j], want[-1], atol=1e-3)
        own = np.concatenate([found.own[:, j], np.ones((len(found), 1))], axis=1)
        want = np.linalg.lstsq(own, found.motion[:, j], rcond=None)[0]
        np.testing.assert_allclose(model.own_weight[j], want[:-1], atol=1e-4)


def test_a_fold_is_not_seen_by_its_model():
    state, action = recording()
    found = rows(state, action, even(state))
    folds = (np.arange(len(found)) // 7) % 3
    models = fit(found, folds, 4)
    assert len(models) == 5
    rest = Rows(*(x[folds != 1] for x in (found.step, found.action, found.own, found.motion)))
    (alone,) = fit(rest)
    np.testing.assert_allclose(models[2].weight, alone.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(models[4].weight, models[0].weight, rtol=1e-9)


def test_actions_that_cause_the_motion_agree_and_others_do_not():
    state, action = recording()
    found = rows(state, action, even(state))
    (model,) = fit(found)
    response = respond(found, model)
    agreement = concordance(response.surprise, response.call)
    assert agreement[0] > 0.999
    assert (np.abs(agreement[1:]) < 0.3).all()
    np.testing.assert_allclose(response.left[:, 0], 0.0, atol=1e-3)
    turned = respond(rows(state, -action, even(state)), model)
    assert concordance(turned.surprise, turned.call)[0] < -0.9


def test_concordance_tells_size_and_sign():
    x = np.random.default_rng(0).normal(size=(50, 1))
    for call, want in ((x, 1.0), (-x, -1.0), (0 * x, 0.0), (100 * x, 200 / 10001)):
        np.testing.assert_allclose(concordance(x, call), [want], atol=1e-12)
    assert np.isnan(concordance(0 * x, 0 * x)).all()


def test_the_cubic_is_of_position_and_command():
    state, action = recording(30)
    found = curved(rows(state, action, even(state)), np.array([1, 0, 0]), np.zeros(3), np.full(3, 100.0))
    x, c = found.own[:, 0, 0] / 100, found.action[:, 1]
    want = np.stack([x**2, x**3, c**2, c**3, c * x, c * x**2, c**2 * x], axis=1)
    np.testing.assert_allclose(found.own[:, 0, PAST + 1 :], want)
    assert found.alone == PAST + 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu():
    state, action = recording()
    found = rows(state, action, even(state))
    here, there = fit(found)[0], fit(found, device="cuda")[0]
    np.testing.assert_allclose(there.weight, here.weight, rtol=1e-8, atol=1e-10)
    for a, b in zip(respond(found, here), respond(found, here, "cuda"), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11)
