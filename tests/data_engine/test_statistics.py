from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.statistics import Accumulator, GroupStatistics


def table(values: np.ndarray) -> pa.Table:
    return pa.table({"timestamp": np.arange(len(values)), "action": pa.array(values.tolist(), pa.list_(pa.float64()))})


def test_numbers_are_numpys() -> None:
    values = np.random.default_rng(0).normal(3, 2, (5000, 3)) * [1, 1e3, 1e-4]
    group = GroupStatistics()
    for i, part in enumerate(np.array_split(values, 7)):
        group.add(table(part), f"episode{i}")
    found = group.result()
    assert list(found) == ["action"]
    expected = {
        "mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0),
        "q01": np.quantile(values, 0.01, axis=0), "q99": np.quantile(values, 0.99, axis=0),
    }  # fmt: skip
    for name, numbers in expected.items():
        assert found["action"][name] == pytest.approx(numbers, rel=1e-5), name
    assert found["action"]["count"] == 5000
    assert found["action"]["missing"] == [0, 0, 0]


def test_order_and_grouping_change_no_digit() -> None:
    rng = np.random.default_rng(1)
    episodes = {f"e{i}": rng.normal(0, 10.0 ** rng.integers(-3, 4), (rng.integers(1, 90), 2)) for i in range(30)}
    results = []
    for order in (sorted(episodes), sorted(episodes, reverse=True), rng.permutation(sorted(episodes)).tolist()):
        group = GroupStatistics()
        for name in order:
            group.add(table(episodes[name]), name)
        results.append(group.result())
    assert results[0] == results[1] == results[2]


def test_values_that_are_not_finite_are_ignored_and_counted() -> None:
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan], [np.inf, np.nan]])
    group = GroupStatistics()
    group.add(table(values), "e")
    group.add(pa.table({"action": pa.array([None, [5.0, None]], pa.list_(pa.float64()))}), "f")
    group.add(pa.table({"action": pa.array([None, None], pa.list_(pa.float64()))}), "g")
    found = group.result()["action"]
    assert (found["mean"][0], found["min"][0], found["max"][0]) == (3.0, 1.0, 5.0)
    assert (found["mean"][1], found["std"][1], found["q01"][1]) == (None, None, None)
    assert (found["count"], found["missing"]) == (8, [5, 8])


def test_a_constant_has_no_deviation_and_rounding_leaves_no_mean() -> None:
    group = GroupStatistics()
    group.add(table(np.stack([np.full(1000, 0.1), np.tile([0.3, -0.3], 500)], axis=1)), "e")
    found = group.result()["action"]
    assert (found["mean"][0], found["std"][0]) == (0.1, 0.0)
    assert found["mean"][1] == 0.0


def test_quantiles_of_many_steps_come_from_a_bounded_sample() -> None:
    rng = np.random.default_rng(2)
    found = Accumulator(1)
    for _ in range(20):
        found.add(rng.random((20_000, 1)), rng.integers(0, 2**64, 20_000, dtype=np.uint64))
        assert sum(map(len, found._keys)) <= 2 * 65_536
    result = found.result()
    assert result["count"] == 400_000
    assert result["q01"][0] == pytest.approx(0.01, abs=0.002)
    assert result["q99"][0] == pytest.approx(0.99, abs=0.002)


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_moments_lie_where_they_can(numbers: list[float]) -> None:
    found = Accumulator(1)
    found.add(np.array(numbers)[:, None], np.arange(len(numbers), dtype=np.uint64))
    result = found.result()
    slack = 1e-5 * max(map(abs, numbers))
    assert min(numbers) - slack <= result["mean"][0] <= max(numbers) + slack
    assert -slack <= result["std"][0] <= (max(numbers) - min(numbers)) + slack


def test_integers_and_scalars_count_and_text_and_flags_do_not() -> None:
    group = GroupStatistics()
    group.add(pa.table({"reward": [0, 1, None], "done": [True, False, False], "note": ["a", "b", "c"]}), "e")
    found = group.result()
    assert list(found) == ["reward"]
    assert (found["reward"]["mean"], found["reward"]["missing"]) == ([0.5], [1])
