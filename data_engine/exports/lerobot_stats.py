"""Statistics as LeRobot v3.0 keeps them: min, max, mean, std, count and five quantiles of every feature and episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

__all__ = ["NAMES", "QUANTILES", "aggregate", "episode_stats", "image_stats", "vector_stats"]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", *QUANTILES)
_LEVELS = np.array(list(QUANTILES.values()))


def vector_stats(values: np.ndarray) -> np.ndarray:
    """float64 [9, d]: the statistics in the order of :data:`NAMES` of ``values`` float64 [n, d], n at least 1.

    std is the population's; quantiles interpolate linearly, as numpy's. Values that are not finite are left out; a
    dimension that has none is NaN.
    """
    if not np.isfinite(values).all():
        columns = [column[np.isfinite(column)] for column in values.T]
        undefined = np.full((len(NAMES), 1), np.nan)
        return np.hstack([vector_stats(column[:, None]) if len(column) else undefined for column in columns])
    ranked = np.sort(np.ascontiguousarray(values.T), axis=1)
    at = _LEVELS * (ranked.shape[1] - 1)
    low = np.floor(at).astype(np.int64)
    below, above = ranked[:, low], ranked[:, np.ceil(at).astype(np.int64)]
    moments = [ranked[:, 0], ranked[:, -1], values.mean(axis=0), values.std(axis=0)]
    return np.vstack([*moments, (below + (above - below) * (at - low)).T])


def episode_stats(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """float64 [episodes, 9, d]: :func:`vector_stats` of each run of ``values`` float64 [n, d] that begins at ``starts``
    int64 [episodes], ascending from 0.

    Episodes of like length are done together, padded to at most twice their length: a call of numpy costs more than
    what there is to do for one of them.
    """
    lengths = np.diff(np.append(starts, len(values)))
    found = np.empty((len(starts), len(NAMES), values.shape[1]))
    whole = np.logical_and.reduceat(np.isfinite(values).all(axis=1), starts)
    kind = np.where(whole, np.frexp(lengths)[1], -1 - np.arange(len(starts)))
    for some in (np.flatnonzero(kind == each) for each in np.unique(kind)):
        if len(some) == 1:
            first = starts[some[0]]
            found[some[0]] = vector_stats(values[first : first + lengths[some[0]]])
        else:
            found[some] = _together(values, starts[some], lengths[some])
    return found


def _together(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """:func:`vector_stats` of the finite runs of ``values`` at ``starts`` of ``lengths``: [runs, 9, d]."""
    at = np.arange(lengths.max())
    inside = (at < lengths[:, None])[:, None]
    runs = values.T[:, np.minimum(starts[:, None] + at, len(values) - 1)].transpose(1, 0, 2)  # [runs, d, steps]
    n = lengths[:, None]
    mean = np.where(inside, runs, 0.0).sum(axis=2) / n
    deviation = np.sqrt((np.where(inside, runs - mean[:, :, None], 0.0) ** 2).sum(axis=2) / n)
    ranked = np.sort(np.where(inside, runs, np.inf), axis=2)
    rank = _LEVELS * (n - 1)
    low = np.floor(rank).astype(np.int64)
    below, above = (np.take_along_axis(ranked, k[:, None], axis=2) for k in (low, np.ceil(rank).astype(np.int64)))
    quantiles = (below + (above - below) * (rank - low)[:, None]).transpose(0, 2, 1)
    last = np.take_along_axis(ranked, (n - 1)[:, None], axis=2)[:, :, 0]
    return np.concatenate([np.stack([ranked[:, :, 0], last, mean, deviation], axis=1), quantiles], axis=1)


def image_stats(frames: Iterable[np.ndarray]) -> np.ndarray:
    """float64 [9, 3]: the statistics per colour channel, in 0 to 1, of uint8 ``frames`` [n, h, w, 3] given in batches.

    Exact over the given pixels, by counting the 256 levels.
    """
    counts = np.zeros((3, 256), np.int64)
    for batch in frames:
        for channel in range(3):
            counts[channel] += np.bincount(batch[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255.0
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    std = np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0.0))
    running = np.cumsum(counts, axis=1)
    rows = [levels[(running > 0).argmax(axis=1)], levels[(running >= total[:, None]).argmax(axis=1)], mean, std]
    rows += [levels[(running >= level * total[:, None]).argmax(axis=1)] for level in _LEVELS]
    return np.vstack(rows)


def aggregate(stats: np.ndarray, counts: Sequence[int]) -> Mapping[str, np.ndarray]:
    """The statistics of a whole set from its episodes' ``stats`` [episodes, 9, d] and ``counts`` [episodes].

    Mean and std are exact (pooled). Quantiles are the count-weighted mean of the episodes', which is LeRobot's own
    definition of its stats.json. An episode whose dimension is NaN (nothing finite) is left out of that dimension.
    """
    weights = np.asarray(counts, np.float64)[:, None] * np.isfinite(stats[:, 0])
    total = np.where(weights.sum(axis=0) > 0, weights.sum(axis=0), np.nan)
    filled = np.where(np.isfinite(stats), stats, 0.0)
    by_name = dict(zip(NAMES, np.moveaxis(filled, 1, 0), strict=True))
    seen = weights > 0
    mean = (by_name["mean"] * weights).sum(axis=0) / total
    variance = ((by_name["std"] ** 2 + (by_name["mean"] - mean) ** 2) * weights).sum(axis=0) / total
    found = {
        "min": np.where(seen.any(axis=0), np.where(seen, by_name["min"], np.inf).min(axis=0), np.nan),
        "max": np.where(seen.any(axis=0), np.where(seen, by_name["max"], -np.inf).max(axis=0), np.nan),
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
    }
    return {**found, **{name: (by_name[name] * weights).sum(axis=0) / total for name in QUANTILES}}
