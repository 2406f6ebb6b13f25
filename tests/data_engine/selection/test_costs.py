import numpy as np

from data_engine.selection import costs
from data_engine.selection.costs import DenseCosts, UnitCosts, by_block
from data_engine.selection.neighbours import directions


def test_unit_costs_are_distances_and_blocks_come_in_order(monkeypatch):
    rng = np.random.default_rng(0)
    ours, theirs = (directions(rng.normal(size=(n, 5))).astype(np.float32) for n in (31, 7))
    found = UnitCosts(ours, theirs)
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    np.testing.assert_allclose(found.rows(slice(0, 31)), distance, atol=2e-3)
    np.testing.assert_allclose(found.rows(np.array([4, 2])), distance[[4, 2]], atol=2e-3)
    monkeypatch.setattr(costs, "_CELLS", 20)
    assert found.shape == DenseCosts(distance).shape == (31, 7)
    seen = list(by_block(DenseCosts(distance), lambda block, cost: (block.start, cost)))
    assert [start for start, _ in seen] == sorted(start for start, _ in seen)
    assert len(seen) > 10
    np.testing.assert_array_equal(np.concatenate([cost for _, cost in seen]), distance)
