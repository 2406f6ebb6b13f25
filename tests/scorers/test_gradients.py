from dataclasses import replace

import numpy as np
import pytest
import torch

from data_engine.reference import Reference, episodes
from scorers.cloning import Clones
from scorers.gradients import Gradients
from scorers.influence import OBJECTIVE, tensors
from scorers.kernels import policy
from tests.scorers.strategies import detours

ENCODER = Gradients(iterations=150)


def mixed(seed=0):
    """24 demonstrations past the obstacle; the commands of the last eight turn the other way for 15 steps."""
    states, actions = detours([1.0] * 24, seed)
    for action in actions[16:]:
        action[12:27] = -action[12:27]
    return states, actions


@pytest.fixture(scope="module")
def batch(batch_of):
    return batch_of(*mixed())


@pytest.fixture(scope="module")
def fit(batch):
    torch.set_num_threads(1)
    return ENCODER.fit([batch])


def means(encoder, batch, fit):
    return np.stack([one.clips.vectors.mean(axis=0) for one in encoder.encode(batch, fit)])


def cosines(first, second):
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    return first @ second.T


def test_where_no_layer_is_larger_than_its_part_vectors_multiply_as_the_gradients_do(batch_of):
    batch = batch_of(*detours([1.0, -1.0, 1.0]))
    encoder = Gradients(iterations=60, side=64, members=2, steps=1)
    fit = encoder.fit([batch])
    fit = replace(fit, meta=fit.meta | {"lengths": dict.fromkeys(fit.meta["lengths"], np.inf)})
    clones = Clones.load(fit)
    (group,) = clones.weights
    view = clones.views[group].measure(next(episodes(batch)))
    steps = clones.steps(view)
    whole = []  # by autograd, one step after the other
    for member in range(2):
        module = policy.module(clones.weights[group], member)
        (part,) = tensors(steps, clones.weights[group], "cpu", rows=len(view.state))
        rows = []
        for at in range(12):
            loss = OBJECTIVE.losses(module, tuple(x[at : at + 1] for x in part)).sum()
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]).numpy())
        whole.append(np.stack(rows))
    expected = sum(g @ g.T for g in whole) / 2
    vectors = encoder.encode(batch, fit)[0].clips.vectors[:12].astype(np.float64)
    found = vectors @ vectors.T
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.97  # 64 of the hidden layer's 128 coordinates
    np.testing.assert_allclose(np.diag(found).sum(), np.diag(expected).sum(), rtol=0.25)


def test_what_teaches_otherwise_lies_elsewhere(batch, fit, batch_of, auc):
    targets = means(ENCODER, batch_of(*detours([1.0] * 6, seed=30)), fit)
    vectors = means(ENCODER, batch, fit)
    near = cosines(vectors, targets).mean(axis=1)
    assert auc(near[:16], near[16:]) >= 0.95


def test_a_clip_is_a_step_range_and_bad_steps_are_in_none(batch, fit, batch_of):
    states, actions = mixed()
    (first, *_) = ENCODER.encode(batch, fit)
    assert first.clips.starts.tolist() == [0, 17, 33]
    assert first.clips.stops.tolist() == [17, 33, 50]
    assert first.clips.vectors.dtype == np.float32
    assert first.clips.vectors.shape == (3, 3 * 16 * 16)
    state = states[0].copy()
    state[17:33] = np.nan
    broken = batch_of([state, np.full_like(state, np.nan), state[:0]], [actions[0], actions[0], actions[0][:0]])
    found = ENCODER.encode(broken, fit)
    assert found[0].clips.starts.tolist() == [0, 33]
    assert np.isfinite(found[0].clips.vectors).all()
    assert [len(one.clips) for one in found[1:]] == [0, 0]


def test_vectors_do_not_depend_on_the_batch_the_order_or_the_name(batch, fit, batch_of):
    states, actions = mixed()
    turned = batch_of(states[::-1], actions[::-1], name="renamed")
    again = ENCODER.fit([turned])
    assert again.id == fit.id
    whole = ENCODER.encode(batch, fit)
    alone = ENCODER.encode(batch_of(states[3:4], actions[3:4]), again)[0]
    np.testing.assert_array_equal(alone.clips.vectors, whole[3].clips.vectors)


def test_one_wild_step_is_not_a_clips_whole_lesson(batch, fit, batch_of):
    states, actions = mixed()
    wild = actions[0].copy()
    wild[5] *= 1000
    tame, spoiled = (means(ENCODER, batch_of([states[0]], [action]), fit) for action in (actions[0], wild))
    assert np.linalg.norm(spoiled) <= next(iter(fit.meta["lengths"].values()))
    uncut = replace(fit, meta=fit.meta | {"lengths": dict.fromkeys(fit.meta["lengths"], np.inf)})
    alone = means(ENCODER, batch_of([states[0]], [wild]), uncut)
    assert cosines(tame, spoiled)[0, 0] > cosines(tame, alone)[0, 0] + 0.2


def test_a_group_without_demonstrations_to_learn_from_has_no_vectors(batch, fit, batch_of):
    states, actions = mixed()
    wider = batch_of([np.hstack([states[0], states[0]])], [actions[0]])
    assert len(ENCODER.encode(wider, fit)[0].clips) == 0
    assert set(Reference([batch], seed=0, budget=1000).groups) == set(fit.meta["lengths"])
