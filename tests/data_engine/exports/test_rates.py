from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.exports.rates import meaning, rates, strata
from data_engine.exports.rows import export_order
from data_engine.samples import Samples

KINDS = list(product(("probability", "repeat", "choose"), ("episode", "step", "dataset")))
EPOCHS = 300


@pytest.mark.parametrize(("kind", "unit"), KINDS)
def test_rates_are_what_the_loader_draws(tmp_path: Path, toy: Any, kind: str, unit: str) -> None:
    """Each row's draws, counted over many epochs, against its rate times its length."""
    made = toy({"one": [4, 9, 2], "two": [6, 6]})
    for row, weight in zip(made.rows, (1.0, 2.0, 0.5, 1.5, 1.5), strict=True):
        row["weight"] = 1.5 if unit == "dataset" else weight
    entries = [{"selection": "one", "weight": 2.0}, {"selection": "two", "weight": 3.0}]
    mixture = made.mixture(tmp_path / "cache", weight_kind=kind, unit=unit, entries=entries)
    samples = Samples(mixture)
    counts = np.zeros(len(mixture))
    for epoch in range(EPOCHS):
        row, _ = samples.locate(epoch, np.arange(samples.size(epoch)))
        counts += np.bincount(row, minlength=len(mixture))
    expected = rates(mixture) * mixture.rows["row_count"]
    np.testing.assert_allclose(counts / EPOCHS, expected, rtol=0.1, atol=0.02)


def test_rates_are_of_each_split_alone(tmp_path: Path, toy: Any) -> None:
    mixture = toy({"one": [5] * 20}).mixture(tmp_path / "cache", splits={"train": 0.5, "val": 0.5})
    np.testing.assert_allclose(rates(mixture), 1.0)  # as many samples an epoch as steps, whatever the split


def test_strata_have_one_split_dataset_and_rate(tmp_path: Path, toy: Any) -> None:
    made = toy({"one": [4, 4, 4], "two": [8]})
    for row, weight in zip(made.rows, (1.0, 3.0, 1.0, 1.0), strict=True):
        row["weight"] = weight
    mixture = made.mixture(tmp_path / "cache", weight_kind="repeat", unit="episode")
    found = strata(mixture, export_order(mixture))
    assert [(s.name, s.split, s.rate, len(s.rows)) for s in found] == [
        ("one", "train", 3.0, 1),
        ("one__w1", "train", 1.0, 2),
        ("two", "train", 1.0, 1),
    ]
    assert [s.share for s in found] == pytest.approx([12 / 28, 8 / 28, 8 / 28])
    assert "unit episode" in meaning(mixture)


def test_a_weight_an_episode_is_no_list_of_datasets(tmp_path: Path, toy: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("data_engine.exports.rates._MOST", 2)
    made = toy({"one": [4, 4, 4]})
    for number, row in enumerate(made.rows):
        row["weight"] = 1.0 + number
    mixture = made.mixture(tmp_path / "cache")
    with pytest.raises(RequestError) as caught:
        strata(mixture, export_order(mixture))
    assert caught.value.code == "too_many_weights"
