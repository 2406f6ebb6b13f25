from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data_engine.exports.lerobot_stats import NAMES, QUANTILES, aggregate, episode_stats, image_stats, vector_stats

finite = st.floats(-1e6, 1e6, width=32)
blocks = arrays.arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=finite)
holed = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 30), st.integers(1, 4)),
    elements=st.one_of(finite, st.sampled_from([np.nan, np.inf, -np.inf])),
)


def by_numpy(values: np.ndarray) -> np.ndarray:
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return np.vstack([values.min(0), values.max(0), values.mean(0), values.std(0), quantiles])


@settings(max_examples=50, deadline=None)
@given(blocks)
def test_vector_statistics_are_numpys(values: np.ndarray) -> None:
    np.testing.assert_allclose(vector_stats(values), by_numpy(values), rtol=1e-9, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(holed)
def test_what_is_not_finite_is_left_out(values: np.ndarray) -> None:
    found = vector_stats(values)
    for dimension, column in enumerate(values.T):
        kept = column[np.isfinite(column)]
        if len(kept):
            np.testing.assert_allclose(found[:, dimension], by_numpy(kept[:, None])[:, 0], rtol=1e-9, atol=1e-6)
        else:
            assert np.isnan(found[:, dimension]).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        arrays.arrays(np.float64, st.tuples(st.integers(1, 9), st.just(2)), elements=finite), min_size=1, max_size=5
    )
)
def test_episodes_pool_to_the_whole(episodes: list[np.ndarray]) -> None:
    counts = [len(episode) for episode in episodes]
    found = aggregate(np.stack([vector_stats(episode) for episode in episodes]), counts)
    whole = dict(zip(NAMES, by_numpy(np.concatenate(episodes)), strict=True))
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-6, atol=1e-2)


@settings(max_examples=50, deadline=None)
@given(holed, st.data())
def test_episodes_together_are_episodes_one_by_one(values: np.ndarray, data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(0, len(values) - 1)))
    starts = np.array(sorted(cuts | {0}))
    found = episode_stats(values, starts)
    for stats, episode in zip(found, np.split(values, starts[1:]), strict=True):
        np.testing.assert_allclose(stats, vector_stats(episode), rtol=1e-9, atol=1e-6)


def test_one_episode_of_nan_poisons_nobody() -> None:
    good, bad = np.array([[1.0], [3.0]]), np.full((5, 1), np.nan)
    found = aggregate(np.stack([vector_stats(good), vector_stats(bad)]), [2, 5])
    assert (found["mean"][0], found["min"][0], found["max"][0], found["std"][0]) == (2.0, 1.0, 3.0, 1.0)
    assert np.isnan(aggregate(vector_stats(bad)[None], [5])["mean"]).all()


@settings(max_examples=20, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5), st.just(3))))
def test_image_statistics_are_those_of_the_pixels(frames: np.ndarray) -> None:
    found = dict(zip(NAMES, image_stats([frames[:1], frames[1:]]), strict=True))
    pixels = frames.reshape(-1, 3) / 255.0
    for name, value in {
        "min": pixels.min(0),
        "max": pixels.max(0),
        "mean": pixels.mean(0),
        "std": pixels.std(0),
    }.items():
        np.testing.assert_allclose(found[name], value, atol=1e-7)
    for name, level in QUANTILES.items():
        np.testing.assert_array_equal(found[name], np.quantile(pixels, level, axis=0, method="inverted_cdf"))
