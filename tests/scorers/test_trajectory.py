import numpy as np
import ot
import pytest

from scorers.trajectory import SIZE, Trajectory

ENCODER = Trajectory()


def encoded(batch, fit=None) -> list[np.ndarray | None]:
    """The vector of each episode, None where there is none."""
    found = ENCODER.encode(batch, fit or ENCODER.fit([batch]))
    for one in found:
        assert (one.failed, set(one.clips.cameras) <= {None}, len(one.clips) <= 1) == ({}, True, True)
    return [one.clips.vectors[0] if len(one.clips) else None for one in found]


def test_nearest_to_expert_targets_are_experts_then_okay_then_worse(tiers, batch_of, auc):
    states, actions, tasks, tier = tiers
    batch = batch_of(states, actions, tasks)
    vectors = np.stack(encoded(batch))
    task = np.array(tasks)
    for name in set(tasks):
        targets = np.flatnonzero((task == name) & (tier == "expert"))[:8]
        rest = np.setdiff1d(np.arange(len(task)), targets)
        cost = np.linalg.norm(vectors[rest][:, None] - vectors[targets][None], axis=2)
        near = cost.min(axis=1)
        own = [near[(task[rest] == name) & (tier[rest] == kind)] for kind in ("expert", "okay", "worse")]
        assert np.median(own[0]) < np.median(own[1]) < np.median(own[2])
        assert auc(-own[0], -own[2]) >= 0.9
        assert (task[rest][near.argsort()[:20]] == name).all()
        potential = ot.emd(ot.unif(len(rest)), ot.unif(8), cost, log=True)[1]["u"]
        chosen = rest[potential.argsort()[:20]]
        assert (task[chosen] == name).all()
        assert (tier[chosen] == "worse").sum() <= 1


def test_effective_rank_is_neither_one_nor_full(tiers, batch_of):
    batch = batch_of(*tiers[:3])
    vectors = np.stack(encoded(batch))
    power = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    share = power / power.sum()
    assert 3 < np.exp(-(share * np.log(share + 1e-30)).sum()) < 60


def test_near_duplicates_are_near(pusht, batch_of):
    states, actions = pusht[0][:30], pusht[1][:30]
    draw = np.random.default_rng(0)
    again = [s + draw.normal(scale=[1, 1, 1, 1, 0.01], size=s.shape) for s in states]
    batch = batch_of([*states, *again], [*actions, *actions], fps=10.0)
    vectors = np.stack(encoded(batch))
    distance = np.linalg.norm(vectors[:30, None] - vectors[None, 30:], axis=2)
    assert (distance.argmin(axis=1) == np.arange(30)).all()


def test_vectors_do_not_depend_on_the_batch_the_order_or_the_name(pusht, batch_of):
    states, actions = pusht[0][:20], pusht[1][:20]
    batch = batch_of(states, actions)
    vectors = encoded(batch)
    turned = batch_of(states[::-1], actions[::-1], name="renamed")
    fit = ENCODER.fit([turned])
    np.testing.assert_array_equal(np.stack(encoded(turned, fit))[::-1], np.stack(vectors))
    np.testing.assert_array_equal(encoded(batch_of(states[3:4], actions[3:4]), fit)[0], vectors[3])
    assert vectors[0].shape == (SIZE,)
    assert vectors[0].dtype == np.float32


def test_a_bad_episode_has_no_vector_and_moves_no_other(pusht, batch_of):
    states, actions = pusht[0][:20], pusht[1][:20]
    batch = batch_of(states, actions)
    want = np.stack(encoded(batch))
    bad = batch_of([*states, np.full_like(states[0], np.nan), states[0][:0]], [*actions, actions[0], actions[0][:0]])
    got = encoded(bad)
    assert got[-1] is None
    assert got[-2] is None
    np.testing.assert_array_equal(np.stack(got[:-2]), want)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_episodes_have_vectors(pusht, batch_of, steps):
    batch = batch_of([s[:steps] for s in pusht[0][:8]], [a[:steps] for a in pusht[1][:8]])
    assert all(np.isfinite(v).all() for v in encoded(batch))
