"""How varied a set of vectors is, how unlike two sets are, and whether a set falls into clusters. float64 throughout.

Friedman and Dieng, "The Vendi Score" (2023); Gretton et al., "A Kernel Two-Sample Test" (2012); Feydy et al.,
"Interpolating between Optimal Transport and MMD using Sinkhorn Divergences" (2019); Schweighofer et al. (2022) for
state-action coverage; Rousseeuw, "Silhouettes" (1987). All O(n^2 d), so callers bound n.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "bandwidth",
    "clusters",
    "entropy",
    "mmd",
    "normalised_information",
    "occupied",
    "parting",
    "sinkhorn",
    "vendi",
]

_CLUSTERS = 6  # looked for at most
_NULLS = 20  # clouds without clusters that a set is held against
_MORE = 0.05  # by which clusters must stand out more for each beyond two


def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances [n, m] between ``x`` [n, d] and ``y`` [m, d]."""
    return np.maximum((x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * x @ y.T, 0.0)


def bandwidth(x: np.ndarray) -> float:
    """The median distance between two of ``x`` [n, d], 1 where that is 0."""
    pairs = squares(x, x)[np.triu_indices(len(x), 1)]
    return float(np.sqrt(np.median(pairs))) if len(pairs) and np.median(pairs) > 1e-24 else 1.0


def vendi(x: np.ndarray, width: float) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the Gaussian kernel of ``width``: how many unlike ``x`` [n, d]
    there are in effect, from 1 (all alike) to n. O(n^3).
    """
    values = np.linalg.eigvalsh(np.exp(-squares(x, x) / (2 * width**2)) / len(x))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def mmd(x: np.ndarray, y: np.ndarray, width: float) -> float:
    """The unbiased squared maximum mean discrepancy of ``x`` [n, d] and ``y`` [m, d] under a Gaussian kernel.

    About 0 (or a little below) for two draws of one distribution. Both must hold two at least.
    """
    inside = [np.exp(-squares(z, z) / (2 * width**2)) for z in (x, y)]
    means = [(k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in inside]
    return float(means[0] + means[1] - 2 * np.exp(-squares(x, y) / (2 * width**2)).mean())


def sinkhorn(x: np.ndarray, y: np.ndarray, blur: float, rounds: int = 200) -> float:
    """The Sinkhorn divergence of ``x`` [n, d] and ``y`` [m, d] for half the squared distance, eps = ``blur``^2.

    OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2, at least 0, and 0 where the sets are one; log-domain, ``rounds`` averaged
    updates, eps annealed over the first half of them.
    """
    return max(
        _transport(x, y, blur, rounds) - (_transport(x, x, blur, rounds) + _transport(y, y, blur, rounds)) / 2, 0
    )


def _transport(x: np.ndarray, y: np.ndarray, blur: float, rounds: int) -> float:
    cost, eps = squares(x, y) / 2, blur**2
    f, g = np.zeros(len(x)), np.zeros(len(y))
    widths = np.geomspace(max(float(cost.max()), eps), eps, rounds // 2)  # annealed: small eps alone hardly moves
    for width in [*widths, *np.full(rounds - len(widths), eps)]:  # averaged updates converge for x = y as well
        left = -width * _log_mean((g[None] - cost) / width)
        right = -width * _log_mean((f[:, None] - cost).T / width)
        f, g = (f + left) / 2, (g + right) / 2
    return float(f.mean() + g.mean())


def _log_mean(z: np.ndarray) -> np.ndarray:
    top = z.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.exp(z - top).mean(axis=1))


def entropy(counts: np.ndarray, base: int | None = None) -> float:
    """-sum p log p of ``counts``, in nats or, with ``base`` possible values, from 0 to 1 (0 for a base below 2)."""
    p = np.asarray(counts, np.float64)
    p = p[p > 0] / p.sum()
    found = float(-(p * np.log(p)).sum())
    if base is None:
        return found
    return found / np.log(base) if base > 1 else 0.0


def normalised_information(
    u: np.ndarray, v: np.ndarray, *, permutations: int = 0, seed: int = 0
) -> tuple[float, float]:
    """(NMI, NMI above chance) of two labellings [n]: 2 I(u; v) / (H(u) + H(v)), from 0 to 1.

    The plug-in estimate is biased upwards (two independent factors of 20 and 30 values give 0.54 at n = 100), so the
    second is (NMI - m) / (1 - m), m the mean over ``permutations`` of v; not below 0, and NaN without permutations.
    """
    table, sizes = _table(u, v)
    plain = _nmi(table)
    if not permutations:
        return plain, float("nan")
    draw = np.random.default_rng(seed)
    rows, columns = sizes
    null = float(np.mean([_nmi(_crossed(rows, draw.permutation(columns), table.shape)) for _ in range(permutations)]))
    return plain, max((plain - null) / max(1 - null, 1e-12), 0.0)


def _table(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    (first, rows), (second, columns) = (np.unique(z, return_inverse=True) for z in (u, v))
    return _crossed(rows, columns, (len(first), len(second))), (rows, columns)


def _crossed(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _nmi(table: np.ndarray) -> float:
    one, two, both = entropy(table.sum(1)), entropy(table.sum(0)), entropy(table.ravel())
    return 2 * (one + two - both) / (one + two) if one + two > 0 else 0.0


def occupied(x: np.ndarray, low: np.ndarray, high: np.ndarray, bins: int = 100) -> np.ndarray:
    """The cells, as sorted int64, of a grid of ``bins`` a dimension between ``low`` and ``high`` [d] that ``x`` [n, d]
    falls into; what lies outside counts to the edge. At most 9 dimensions of 100 bins.
    """
    if bins ** x.shape[1] >= 2**63:
        raise ValueError(f"{x.shape[1]} dimensions of {bins} bins are more cells than an int64 counts")
    place = (x - low) / np.where(high > low, high - low, 1.0) * bins
    cells = np.clip(np.floor(place), 0, bins - 1).astype(np.int64)
    code = np.zeros(len(x), np.int64)
    for dimension in cells.T:
        code = code * bins + dimension
    return np.unique(code)


def clusters(x: np.ndarray, *, seed: int, least: int = 3) -> np.ndarray:
    """Which cluster each of ``x`` [n, d] belongs to, int64 [n], 0 the largest; all 0 where none stand out by 0.05."""
    apart, labels = parting(x, seed=seed, least=least)
    return labels if apart > 0.05 else np.zeros(len(x), np.int64)


def parting(
    x: np.ndarray, *, seed: int, least: int = 3, most: int = _CLUSTERS, nulls: int = _NULLS, beat: float = -np.inf
) -> tuple[float, np.ndarray]:
    """How far ``x`` [n, d] falls apart, and into which clusters: int64 [n], 0 the largest. -inf and all 0 if it can't,
    or not by more than ``beat``.

    k-means for 2 to ``most`` clusters of at least ``least``. How far: the mean silhouette above that of the best of
    ``nulls`` clouds of the same spread which have no clusters, half of them Gaussian and half of them even boxes
    (Tibshirani, Walther and Hastie 2001, "the gap statistic"), less 0.05 for each cluster beyond two; k is the one
    where that is the most.
    """
    n, draw = len(x), np.random.default_rng(seed)
    best, chosen = beat, np.zeros(n, np.int64)
    spread = x - x.mean(axis=0)
    if n < 2 * least or not (np.abs(spread) > 1e-9).any():
        return -np.inf, chosen
    _, scale, axes = np.linalg.svd(spread, full_matrices=False)
    shape = (n, len(scale))
    clouds = [
        (draw.normal(size=shape) if number % 2 else draw.uniform(-(3**0.5), 3**0.5, shape))
        * (scale / np.sqrt(n))
        @ axes
        for number in range(nulls)
    ]
    for k in range(2, min(most, n // least) + 1):
        labels = _means(spread, k, draw)
        if np.bincount(labels, minlength=k).min() < least:
            continue
        apart = above = silhouette(spread, labels) - _MORE * (k - 2)
        for cloud in clouds:
            above = min(above, apart - silhouette(cloud, _means(cloud, k, draw, tries=2)))
            if above <= best:  # and further clouds can only lessen it
                break
        if above > best:
            best, chosen = above, labels
    if not chosen.any():
        return -np.inf, chosen
    order = np.argsort([-(chosen == label).sum() for label in range(chosen.max() + 1)], kind="stable")
    return best, np.argsort(order)[chosen]


def silhouette(x: np.ndarray, labels: np.ndarray) -> float:
    """The mean over ``x`` [n, d] of (b - a) / max(a, b): a the mean distance inside one's cluster, b to the next; 0 for
    one that is alone."""
    distance = np.sqrt(squares(x, x))
    member = labels[:, None] == np.unique(labels)[None]
    sizes = member.sum(axis=0)
    sums = distance @ member
    rows, own = np.arange(len(x)), member.argmax(axis=1)
    inside = sums[rows, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[rows, own] = np.inf
    other = means.min(axis=1)
    found = (other - inside) / np.maximum(np.maximum(inside, other), 1e-300)
    return float(np.where((sizes[own] > 1) & np.isfinite(other), found, 0.0).mean())


def _means(x: np.ndarray, k: int, draw: np.random.Generator, tries: int = 5) -> np.ndarray:
    """The best of ``tries`` runs of Lloyd's algorithm, side by side, from k-means++ beginnings: int64 [n]."""
    begun = []
    for _ in range(tries):
        centres = x[[int(draw.integers(len(x)))]]
        while len(centres) < k:
            near = squares(x, centres).min(axis=1)
            chance = near / near.sum() if near.sum() > 0 else None
            centres = np.concatenate([centres, x[[int(draw.choice(len(x), p=chance))]]])
        begun.append(centres)
    centres, labels = np.stack(begun), np.full((tries, len(x)), -1)
    for _ in range(50):
        found = squares(x, centres.reshape(tries * k, -1)).reshape(len(x), tries, k).argmin(axis=2).T
        if (found == labels).all():
            break
        labels = found
        member = (labels[:, None] == np.arange(k)[:, None]).astype(np.float64)  # [tries, k, n]
        sizes = member.sum(axis=2)[:, :, None]
        centres = np.where(sizes > 0, member @ x / np.maximum(sizes, 1), centres)
    losses = squares(x, centres.reshape(tries * k, -1)).reshape(len(x), tries, k).min(axis=2).sum(axis=0)
    return labels[int(losses.argmin())]
