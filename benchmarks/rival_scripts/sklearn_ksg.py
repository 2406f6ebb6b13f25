"""ARRAYS.npz K [PASSES]: the Kraskov estimate of I(state; action) on scikit-learn's trees.

All steps at once, or with PASSES in shuffled batches of 1,024, once a pass, for k = K, K + 1 and K + 2 (DemInf's way).
Kraskov, Stoegbauer, Grassberger 2004, "Estimating mutual information", first estimator, maximum norm.
"""

import sys

import numpy as np
from figures import Work
from scipy.special import digamma
from sklearn.neighbors import KDTree, NearestNeighbors

BATCH = 1024


def nats(state: np.ndarray, action: np.ndarray, ks: range) -> np.ndarray:
    """Each step's information in nats, float64 [n], the mean over ``ks``; NaN for tied steps, which have no radius."""
    both = np.concatenate([state, action], axis=1)
    radii = NearestNeighbors(n_neighbors=ks[-1], metric="chebyshev").fit(both).kneighbors()[0]
    trees = [KDTree(x, metric="chebyshev") for x in (state, action)]
    found = []
    for k in ks:
        radius = radii[:, k - 1]
        inside = np.nextafter(radius, 0)
        counts = [tree.query_radius(x, inside, count_only=True) for tree, x in zip(trees, (state, action), strict=True)]
        value = digamma(k) + digamma(len(both)) - sum(digamma(n) for n in counts)
        found.append(np.where(radius > 0, value, np.nan))
    return np.mean(found, axis=0)


def main() -> None:
    arrays, k, passes = np.load(sys.argv[1]), int(sys.argv[2]), int((sys.argv[3:] or ["0"])[0])
    state, action = arrays["state"], arrays["action"]
    nats(state[:BATCH], action[:BATCH], range(k, k + 1))
    work = Work()
    if passes:
        found = np.empty((passes, len(state)))
        for number in range(passes):
            order = np.random.default_rng(number).permutation(len(state))
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                found[number, rows] = nats(state[rows], action[rows], range(k, k + 3))
    else:
        found = nats(state, action, range(k, k + 1))
    more = {"widths": [state.shape[1], action.shape[1]], "nats": float(np.nanmean(found))}
    work.report("scikit-learn", "ksg", len(state), tied=int(np.isnan(found).sum()), **more)


if __name__ == "__main__":
    main()
