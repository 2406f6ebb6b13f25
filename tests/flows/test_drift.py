from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from data_engine import registry
from flows.drift import drift
from storage.lake import Lake
from storage.snapshot import Snapshot

METRIC = registry.load("scorers", "integrity").spec.metrics[0].name


@pytest.fixture
def lake(tmp_path):
    return Lake.open(str(tmp_path / "lake"), create=True)


def fill(lake: Lake, values: dict[str, list[float]], dataset: str = "a", scorer: str = "integrity") -> None:
    """Episodes by the run that brought them, with a score each."""
    for run, those in values.items():
        names = [f"{dataset}_{run}_{number}" for number in range(len(those))]
        common = {"dataset": dataset, "run_id": run, "revision": 0}
        lake.append_rows("episodes", [{"episode_id": name, "source_key": name, "content_hash": name, **common}
                                      for name in names], transaction=f"e{dataset}{run}")  # fmt: skip
        lake.append_rows(
            "scores",
            [{"unit_kind": "episode", "unit_id": name, "content_hash": name, "scorer": scorer, "metric": METRIC,
              "version": "1", "config_hash": "c", "fit_id": "f", "value": value, "run_id": run}
             for name, value in zip(names, those, strict=True)], transaction=f"s{dataset}{run}",
        )  # fmt: skip


def test_what_a_run_brought_is_held_against_what_was_there(lake):
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=60), rng.normal(size=40)
    for dataset, shift in (("same", 0.0), ("worse", 2.0)):
        fill(lake, {"first": one.tolist(), "second": (two + shift).tolist()}, dataset)
    found = {row["dataset"]: row for row in drift(Snapshot.take(lake), "second")}
    assert (found["same"]["drifted"], found["worse"]["drifted"]) == (False, True)
    assert (found["worse"]["new"], found["worse"]["old"]) == (40, 60)
    assert found["worse"]["median_new"] > found["worse"]["median_old"] + 1
    assert drift(Snapshot.take(lake), "third") == []


def test_the_distance_and_its_chance_are_those_of_scipy(lake):
    from scipy.stats import ks_2samp

    from flows.drift import _chance, _distance

    rng = np.random.default_rng(1)
    for one, two, shift in ((40, 60, 0.0), (200, 300, 0.3), (25, 80, 1.0)):
        first, second = rng.normal(size=one).round(1), rng.normal(size=two).round(1) + shift
        right = ks_2samp(first, second, method="asymp")
        assert _distance(first, second) == pytest.approx(right.statistic)
        assert _chance(right.statistic, one, two) == pytest.approx(right.pvalue, abs=0.03)


def test_few_episodes_say_nothing(lake):
    fill(lake, {"first": [0.0] * 30, "second": [9.0] * 7})
    assert drift(Snapshot.take(lake), "second") == []


def test_the_run_that_first_scores_them_tells_of_episodes_that_another_brought(lake):
    fill(lake, {"first": [float(value % 5) for value in range(30)], "brought": [9.0 + value for value in range(20)]})
    rows = lake.scan("scores").collect().with_columns(pl.lit("scored").alias("run_id"), pl.lit("g").alias("fit_id"))
    assert drift(Snapshot.take(lake), "ingest") == []
    (row,) = drift(Snapshot.take(lake), "brought")
    assert (row["drifted"], row["new"], row["old"]) == (True, 20, 30)
    fill(lake, {"third": [100.0 + value for value in range(10)]}, scorer="smoothness")  # brought, and not scored by it
    third = [{**rows.row(0, named=True), "unit_id": f"a_third_{at}", "content_hash": f"a_third_{at}",
              "value": 100.0 + at} for at in range(10)]  # fmt: skip
    lake.append_rows("scores", rows.to_dicts() + third, transaction="anew")  # by a later run, with a fit of its own
    (row,) = drift(Snapshot.take(lake), "scored")
    assert (row["score"], row["drifted"], row["new"], row["old"]) == ("integrity", True, 10, 50)
