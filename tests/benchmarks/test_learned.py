from __future__ import annotations

import numpy as np

from benchmarks.learned import Tiers, measured
from scorers.compatibility import Compatibility


def test_base_episodes_serve_and_are_not_judged(shared_data):
    tiers = Tiers(shared_data / "metaworld_tiers")
    best = tiers.experts(10)
    assert {str(tier) for tier in tiers.tier[best]} == {"expert"}
    assert [int((best & (tiers.task == task)).sum()) for task in np.unique(tiers.task)] == [10, 10, 10]
    line = measured(tiers, Compatibility(iterations=5, members=2), ("rejected", "bad_fraction"))
    assert (line["iterations"], line["converged"]) == (5, False)
    assert line["held_out"] > 0
    assert list(line["auc"]) == ["rejected", "bad_fraction"]
    assert 0 <= line["auc"]["bad_fraction"]["expert/okay"] <= 1
    assert line["fit_s"] > 0
    usual, longest = line["judged_ms"]
    assert 0 < usual <= longest
