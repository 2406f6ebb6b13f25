import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.selection.share import share_alike


def among(held):
    """Cosines of as many targets, of which each is as near to another as ``held`` says."""
    found = np.full((len(held), len(held)), -1.0)
    found[np.arange(len(held)), (np.arange(len(held)) + 1) % len(held)] = held
    return found


def test_by_hand():
    """Four targets at 0.8, 0.6, 0.4, 0.2: half are not above 0.8, so the bounds are of the last three."""
    nearest = np.array([0.9, 0.7, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = share_alike(nearest, among([0.8, 0.4, 0.6, 0.2]))
    ratios = {0.4: 0.3 / 0.625, 0.2: 0.3 / 0.875}
    assert found.threshold == min(ratios, key=ratios.__getitem__)
    assert found.share == pytest.approx(0.3 / 0.875)
    assert (found.targets, found.candidates) == (0.875, 0.3)


def test_nobody_and_everybody():
    assert share_alike(np.full(5, -0.5), among([0.5, 0.6])).share == 0
    assert share_alike(np.full(5, 0.9), among([0.5, 0.6])).share == 1


def test_copies_of_targets_say_nothing_of_each_other():
    rng = np.random.default_rng(0)
    nearest = rng.uniform(-1, 1, 200)
    once = rng.uniform(-0.5, 0.5, (6, 6))
    once = np.minimum(once, once.T)
    np.fill_diagonal(once, 1)
    twice = np.repeat(np.repeat(once, 2, axis=0), 2, axis=1)
    one, other = share_alike(nearest, once), share_alike(nearest, twice)
    assert one.threshold == other.threshold and one.candidates == other.candidates
    assert share_alike(nearest, np.ones((4, 4))).share == 0


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_what_was_mixed_in_is_found_again(share, seed):
    """Scores of candidates that are a share of the targets' and the rest of another distribution, below them."""
    rng = np.random.default_rng(seed)
    n, m = 4000, 400
    held = rng.normal(0.6, 0.05, m)
    alike = rng.random(n) < share
    nearest = np.where(alike, rng.normal(0.6, 0.05, n), rng.normal(0.1, 0.05, n))
    assert share_alike(nearest, among(held)).share == pytest.approx(alike.mean(), abs=0.06)
