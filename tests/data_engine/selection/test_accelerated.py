import numpy as np
import ot
import pytest

from data_engine.selection import accelerated
from data_engine.selection.accelerated import TorchCosts, unit_costs
from data_engine.selection.costs import UnitCosts
from data_engine.selection.neighbours import directions
from data_engine.selection.pricing import solve_priced

torch = pytest.importorskip("torch")


def sides(n, m, d=6):
    rng = np.random.default_rng(0)
    return [directions(rng.normal(size=(count, d))).astype(np.float32) for count in (n, m)]


CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("pairs", [1, 4, 30])
def test_torch_finds_the_same_as_numpy(monkeypatch, pairs, device):
    monkeypatch.setattr(accelerated, "_CELLS", 300)
    ours, theirs = sides(100, 20)
    prices = np.random.default_rng(1).normal(size=20) / 5
    theirs_found = TorchCosts(ours, theirs, device).cheapest(prices, pairs)
    found = UnitCosts(ours, theirs).cheapest(prices, pairs)
    np.testing.assert_allclose(theirs_found.potential, found.potential, atol=1e-4)
    np.testing.assert_allclose(
        theirs_found.cost - prices[theirs_found.target], found.cost - prices[found.target], atol=1e-3
    )
    assert (theirs_found.target.dtype, theirs_found.cost.dtype) == (found.target.dtype, found.cost.dtype)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_transport_is_as_good_by_torch(monkeypatch, device):
    monkeypatch.setattr("data_engine.selection.pricing._SMALL", 100)
    ours, theirs = sides(600, 30)
    costs = TorchCosts(ours, theirs, device)
    assert isinstance(costs.part(np.arange(5)), TorchCosts)
    found = solve_priced(costs, ot, gap=0.01)
    exact = ot.emd2([], [], costs.rows(slice(0, 600)).astype(np.float64))
    assert found.gap <= 0.01
    assert exact * (1 - 1e-5) <= found.distance <= 1.0101 * exact


def test_a_gpu_is_taken_where_there_is_one_and_pairs_are_many(monkeypatch):
    ours, theirs = sides(50, 10)
    assert type(unit_costs(ours, theirs)) is UnitCosts
    monkeypatch.setattr(accelerated, "_LARGE", 100)
    expected = TorchCosts if torch.cuda.is_available() else UnitCosts
    assert type(unit_costs(ours.astype(np.float64), theirs)) is expected
    monkeypatch.setattr(accelerated, "device", lambda: "cuda")
    found = unit_costs(ours, theirs)
    assert isinstance(found, TorchCosts) and found.device == "cuda" and found.part(np.arange(3)).device == "cuda"
