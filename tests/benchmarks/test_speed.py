from __future__ import annotations

import numpy as np
import pytest

from benchmarks import speed
from benchmarks.learned import Tiers


def figures(n, fit_s, score_s, peak_mb=100.0):
    return {"n": n, "fit_s": fit_s, "score_s": score_s, "peak_mb": peak_mb}


def test_seconds_are_summed_over_scorers_and_growth_is_of_a_step():
    said = []
    found = {
        "one": [figures(100, 2.0, 8.0), figures(1000, 2.0, 78.0, 300.0)],
        "two": [figures(100, 12.0, 1.0, 2500.0), figures(1000, 12.0, 1.0)],
        "broken": [{"error": "no memory"}, {"error": "no memory"}],
    }
    told = speed.totals(found, (1, 10), said.append)
    assert told["seconds"] == 23
    assert told["peak_mb"] == 2500
    assert told["growth"] == pytest.approx({"one": 0.8, "two": 0.1})
    assert "all 2 on" in said[0]
    assert said[1].endswith("MISSED")


def test_one_fit_says_the_same_on_one_device(shared_data):
    tiers = Tiers(shared_data / "metaworld_tiers")
    tiers.courses = tiers.courses[::6]
    assert speed.parity(tiers, "action_divergence", "cpu") == 0
    assert np.isfinite(speed.parity(tiers, "mutual_information", "cpu"))
