from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from data_engine.sampling import Draws, Units, hash_key, permute, random_bits, uniform


def units(entry: list[int], weight: list[float], length: list[int], entries: list[float], dataset=None) -> Units:
    rows = np.array(entry)
    return Units(
        rows,
        rows if dataset is None else np.array(dataset),
        np.array(weight, float),
        np.array(length),
        np.array(entries),
    )


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """The statistic in standard deviations of its distribution under equality."""
    degrees = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_a_permutation_is_a_bijection(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@given(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**40), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_a_permutation_stays_inside_and_treats_every_index_alone(size: int, key: int, indices: list[int]) -> None:
    inside = np.array([index % size for index in indices])
    together = permute(inside, size, key)
    assert ((together >= 0) & (together < size)).all()
    assert [int(permute(np.array([index]), size, key)[0]) for index in inside] == together.tolist()


def test_permutations_of_each_size_at_once() -> None:
    size, key = np.array([3] * 3 + [50] * 50), np.array([7] * 3 + [9] * 50, np.uint64)
    found = permute(np.concatenate([np.arange(3), np.arange(50)]), size, key)
    assert found[:3].tolist() == permute(np.arange(3), 3, 7).tolist()
    assert found[3:].tolist() == permute(np.arange(50), 50, 9).tolist()


def test_all_orders_of_three_come_alike() -> None:
    orders = [tuple(permute(np.arange(3), 3, hash_key("order", i)).tolist()) for i in range(3000)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 6
    assert chi_square(counts, np.full(6, 500)) < 4


def test_draws_are_uniform_and_independent_of_the_order_asked() -> None:
    values = uniform(5, np.arange(100_000))
    assert chi_square(np.bincount((values * 50).astype(int), minlength=50), np.full(50, 2000)) < 4
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01
    assert uniform(5, np.array([77]))[0] == values[77]
    assert random_bits(5, np.array([1]))[0] != random_bits(6, np.array([1]))[0]


@pytest.mark.parametrize(
    ("unit", "share"),
    [
        ("episode", [0.75 * 1 / 4, 0.75 * 3 / 4, 0.25]),
        ("step", [0.75 * 10 / 100, 0.75 * 90 / 100, 0.25]),
    ],
)
def test_probability_follows_entry_then_unit(unit, share) -> None:
    drawn = units([0, 0, 1], [1, 3, 1], [10, 30, 20], [3, 1])
    epoch = Draws(drawn, "probability", unit, 60_000, key=3).epoch(0)
    row, offset = epoch.at(np.arange(60_000))
    assert chi_square(np.bincount(row, minlength=3), np.array(share) * 60_000) < 4
    assert (offset < drawn.length[row]).all()
    assert chi_square(np.bincount(offset[row == 2], minlength=20), np.full(20, (row == 2).sum() / 20)) < 4


def test_probability_by_dataset_is_alike_for_large_and_small_ones() -> None:
    drawn = units([0, 0, 0], [1, 1, 1], [10, 90, 20], [1], dataset=[0, 0, 1])
    row, _ = Draws(drawn, "probability", "dataset", 60_000, key=3).epoch(0).at(np.arange(60_000))
    assert chi_square(np.bincount(row), np.array([0.05, 0.45, 0.5]) * 60_000) < 4


def test_an_epoch_of_probability_has_as_many_samples_as_steps_unless_told() -> None:
    assert len(Draws(units([0], [1], [17], [1]), "probability", "step", None, 0).epoch(0)) == 17


@pytest.mark.parametrize("unit", ["episode", "step", "dataset"])
def test_repeat_passes_whole_numbers_exactly(unit) -> None:
    drawn = units([0, 0, 1], [1, 1, 1], [10, 7, 5], [1, 3])
    epoch = Draws(drawn, "repeat", unit, None, key=1).epoch(4)
    row, offset = epoch.at(np.arange(len(epoch)))
    pairs, counts = np.unique(np.stack([row, offset]), axis=1, return_counts=True)
    assert pairs.shape[1] == 22
    assert (counts == np.where(pairs[0] == 2, 3, 1)).all()


def test_a_fraction_of_a_pass_falls_to_other_episodes_each_epoch() -> None:
    drawn = units([0] * 40, [1] * 40, [5] * 40, [1.5])
    draws = Draws(drawn, "repeat", "episode", None, key=1)
    passes = np.zeros(40)
    for number in range(200):
        epoch = draws.epoch(number)
        assert len(epoch) == 5 * 60
        once = np.bincount(epoch.at(np.arange(300))[0], minlength=40) / 5
        assert set(once) <= {1, 2}
        passes += once
    assert abs(passes / 200 - 1.5).max() < 0.2


def test_a_fraction_by_step_takes_any_step_of_an_episode_once() -> None:
    draws = Draws(units([0, 0], [1, 1], [100, 100], [0.25]), "repeat", "step", None, key=1)
    seen = np.zeros((2, 100), int)
    for number in range(100):
        epoch = draws.epoch(number)
        row, offset = epoch.at(np.arange(len(epoch)))
        assert len(epoch) == 50
        assert len(np.unique(row * 100 + offset)) == 50
        np.add.at(seen, (row, offset), 1)
    assert seen.min() > 5


def test_choose_gives_each_entry_its_count() -> None:
    drawn = units([0] * 10 + [1] * 4, [1] * 5 + [3] * 5 + [1] * 4, [3] * 14, [4, 6])
    for number in range(20):
        epoch = Draws(drawn, "choose", "episode", None, key=2).epoch(number)
        episodes = np.bincount(epoch.at(np.arange(len(epoch)))[0], minlength=14) / 3
        assert episodes[:10].sum() == 4
        assert episodes[10:].sum() == 6
        assert set(episodes[10:]) == {1, 2}
    epoch = Draws(drawn, "choose", "step", None, key=2).epoch(0)
    row, _ = epoch.at(np.arange(len(epoch)))
    assert ((row < 10).sum(), (row >= 10).sum()) == (4, 6)


def test_any_grouping_of_an_epoch_draws_the_same() -> None:
    for kind in ("probability", "repeat"):
        epoch = Draws(units([0, 0], [1, 1.37], [31, 17], [1]), kind, "step", None, key=9).epoch(2)
        together = np.stack(epoch.at(np.arange(len(epoch))))
        alone = np.concatenate([np.stack(epoch.at(np.array([k]))) for k in range(len(epoch))], axis=1)
        assert (together == alone).all()


def test_unlike_weights_inside_a_dataset_that_is_drawn_whole_are_refused() -> None:
    with pytest.raises(RequestError, match="weights differ inside a dataset"):
        Draws(units([0, 0], [1, 2], [3, 3], [1], dataset=[0, 0]), "repeat", "dataset", None, 0)


def test_outside_an_epoch_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        Draws(units([0], [1], [3], [1]), "repeat", "step", None, 0).epoch(0).at(np.array([3]))
