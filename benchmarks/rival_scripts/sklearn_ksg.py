"""ARRAYS.npz K: the Kraskov estimate of I(state; action), all steps at once, on scikit-learn's trees.

Kraskov, Stoegbauer, Grassberger 2004, "Estimating mutual information", first estimator, maximum norm.
"""

import sys

import numpy as np
from figures import Work
from scipy.special import digamma
from sklearn.neighbors import KDTree, NearestNeighbors


def main() -> None:
    arrays, k = np.load(sys.argv[1]), int(sys.argv[2])
    state, action = arrays["state"], arrays["action"]
    work = Work()
    both = np.concatenate([state, action], axis=1)
    radius = NearestNeighbors(n_neighbors=k, metric="chebyshev").fit(both).kneighbors()[0][:, -1]
    inside = np.nextafter(radius, 0)
    counts = [KDTree(x, metric="chebyshev").query_radius(x, inside, count_only=True) for x in (state, action)]
    usable = radius > 0  # tied steps have no radius
    nats = digamma(k) + digamma(len(both)) - sum(digamma(n[usable]).mean() for n in counts)
    more = {"widths": [state.shape[1], action.shape[1]], "nats": float(nats), "tied": int((~usable).sum())}
    work.report("scikit-learn", "ksg", len(both), **more)


if __name__ == "__main__":
    main()
