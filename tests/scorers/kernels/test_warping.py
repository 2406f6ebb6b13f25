import numpy as np

from scorers.kernels.warping import stretched, warp


def test_the_path_is_the_cheapest():
    draw = np.random.default_rng(0)
    for n, m in ((1, 1), (1, 4), (6, 5), (9, 13)):
        x, y = draw.normal(size=(n, 2)), draw.normal(size=(m, 2))
        cost = ((x[:, None] - y[None]) ** 2).sum(2)
        total = np.full((n + 1, m + 1), np.inf)
        total[0, 0] = 0
        for i in range(n):
            for j in range(m):
                total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
        first, second = warp(x, y)
        np.testing.assert_allclose(cost[first, second].sum(), total[n, m])
        steps = np.stack([np.diff(first), np.diff(second)])
        assert ((steps >= 0) & (steps <= 1)).all()
        assert (first[0], second[0], first[-1], second[-1]) == (0, 0, n - 1, m - 1)


def test_a_stop_is_stretched_and_a_slower_pace_is_not():
    path = np.arange(20.0)[:, None]
    stop = np.concatenate([path[:8], np.repeat(path[8:9], 12, axis=0), path[9:]])
    found = stretched(*warp(stop, path), len(stop), 8)
    edges = np.flatnonzero(found)[[0, -1]]
    np.testing.assert_allclose(edges, [8, 19], atol=2)  # as far as the slope lets it reach into the motion
    slow = np.arange(40.0)[:, None] / 2
    assert not stretched(*warp(slow, path), len(slow), 8).any()
