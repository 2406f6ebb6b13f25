import numpy as np
import pytest

from data_engine.selection.share import share_alike


def by_definition(ours, theirs):
    """The least bound, target by target, from all cosines (candidates [n, m], targets [m, m])."""
    m = len(theirs)
    shares = []
    for j in range(m):
        rest = [k for k in range(m) if k != j]
        shares.append((ours[:, rest].max(axis=1) >= theirs[j, rest].max()).mean())
    return min(1, *(c / ((i + 0.5) / m) for i, c in enumerate(sorted(shares)) if (i + 0.5) / m >= 0.5))


def estimate(ours, theirs):
    order = np.argsort(-ours, axis=1)[:, :2]
    return share_alike(order, np.take_along_axis(ours, order, 1), theirs)


def cosines(m, n, seed=0):
    rng = np.random.default_rng(seed)
    theirs = rng.uniform(-0.9, 0.9, (m, m))
    theirs = np.minimum(theirs, theirs.T)
    np.fill_diagonal(theirs, 1)
    return rng.uniform(-0.9, 0.9, (n, m)), theirs


@pytest.mark.parametrize(("m", "n"), [(2, 3), (3, 40), (9, 200)])
def test_the_least_bound_by_its_definition(m, n):
    for seed in range(10):
        ours, theirs = cosines(m, n, seed)
        found = estimate(ours, theirs)
        assert found.share == pytest.approx(by_definition(ours, theirs))
        assert found.share == pytest.approx(min(found.candidates / found.alike, 1)) and found.alike >= 0.5


def test_nobody_and_everybody():
    _, theirs = cosines(4, 1)
    assert estimate(np.full((5, 4), -0.95), theirs).share == 0
    assert estimate(np.full((5, 4), 0.95), theirs).share == 1


def test_copies_of_targets_say_nothing_of_each_other():
    ours, theirs = cosines(6, 200)
    twice = np.repeat(np.repeat(theirs, 2, axis=0), 2, axis=1)
    one, other = estimate(ours, theirs), estimate(np.repeat(ours, 2, axis=1), twice)
    assert other.share >= one.share > 0  # what is held out has a copy among the others, which candidates may be near to
    assert estimate(ours[:, :4], np.ones((4, 4))).share == 0


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_what_was_mixed_in_is_found_again(share):
    """Points about a centre among others that lie anywhere, over several draws of 60 targets."""
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        centre = rng.normal(size=16)
        alike = rng.random(1500) < share
        points = np.where(alike[:, None], centre + 0.4 * rng.normal(size=(1500, 16)), rng.normal(size=(1500, 16)))
        targets = centre + 0.4 * rng.normal(size=(60, 16))
        ours, theirs = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (points, targets))
        found.append(estimate(ours @ theirs.T, theirs @ theirs.T).share / alike.mean())
    assert np.mean(found) == pytest.approx(1, abs=0.15)
