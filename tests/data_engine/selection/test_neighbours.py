import numpy as np

from data_engine.selection import neighbours
from data_engine.selection.neighbours import clusters, directions, nearest


def test_directions_are_unit_and_what_has_none_stays_zero():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(directions(vectors), [[0.6, 0.8], [0, 0], [1, 0]])
    assert (directions(np.full((5, 3), 0.1), centre=True) == 0).all()
    centred = directions(vectors + 100, centre=True)
    np.testing.assert_allclose(centred, directions(vectors - vectors.mean(axis=0)), atol=1e-9)


def test_nearest_is_brute_force_and_lists_find_nearly_all(monkeypatch):
    rng = np.random.default_rng(0)
    units = directions((rng.normal(size=(40, 1, 8)) + 0.3 * rng.normal(size=(40, 50, 8))).reshape(-1, 8))
    rows, cosine = nearest(units, units[:100], 10)
    brute = units[:100] @ units.T
    expected = -np.sort(-brute, axis=1)[:, :10]
    np.testing.assert_allclose(cosine, expected, atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(brute, rows, axis=1), expected, atol=2e-6)
    monkeypatch.setattr(neighbours, "EXACT_BELOW", 1000)
    some, _ = nearest(units, units[:100], 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), some.tolist(), strict=True)])
    assert shared > 0.95
    assert np.array_equal(some, nearest(units, units[:100], 10)[0])
    alone, none = nearest(units[:2], units[:3], 5)
    assert alone.shape == none.shape == (3, 2)


def test_clusters_of_separate_clouds_are_their_centres_and_one_seed_gives_one_answer():
    rng = np.random.default_rng(1)
    units = directions((10 * np.eye(4)[:, None] + rng.normal(size=(4, 60, 4))).reshape(-1, 4))
    centroids = clusters(units, 4, seed=3)
    assert (centroids @ np.eye(4)).max(axis=0).min() > 0.99
    assert np.array_equal(centroids, clusters(units, 4, seed=3))
