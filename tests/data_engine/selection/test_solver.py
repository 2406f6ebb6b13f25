import subprocess
import sys

import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment

from data_engine.selection.nearest import cosines
from data_engine.selection.solver import solve


def cost(n, m, seed=0, d=6):
    rng = np.random.default_rng(seed)
    return np.sqrt(np.maximum(2 - 2 * cosines(rng.normal(size=(n, d)), rng.normal(size=(m, d))), 0))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (7, 1), (30, 12), (12, 30)])
def test_exact_is_pots_exact_distance_and_its_dual_closes(n, m):
    matrix = cost(n, m)
    solution = solve(matrix, "exact")
    expected = ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), matrix)
    assert solution.distance == pytest.approx(expected, abs=1e-9)
    target = (matrix - solution.potential[:, None]).min(axis=0)
    assert solution.potential.mean() + target.mean() == pytest.approx(expected, abs=1e-9)
    assert solution.converged


def test_equal_sizes_are_an_assignment():
    matrix = cost(25, 25, seed=3)
    rows, columns = linear_sum_assignment(matrix)
    assert solve(matrix, "exact").distance == pytest.approx(matrix[rows, columns].mean(), abs=1e-9)


def test_sinkhorn_comes_near_the_exact_solution():
    matrix = cost(120, 20, seed=1)
    exact, entropic = solve(matrix, "exact"), solve(matrix, "sinkhorn", regularisation=0.01)
    assert entropic.converged
    assert exact.distance <= entropic.distance <= exact.distance * 1.02
    assert np.corrcoef(exact.potential, entropic.potential)[0, 1] > 0.98


def test_auto_is_exact_in_reach_and_priced_above(monkeypatch):
    assert solve(cost(10, 4)).solver == "exact"
    monkeypatch.setattr("data_engine.selection.solver.EXACT_CELLS", 100)
    monkeypatch.setattr("data_engine.selection.pricing._SMALL", 100)
    matrix = cost(200, 30)
    priced, exact = solve(matrix), solve(matrix, "exact")
    assert (priced.solver, exact.gap) == ("priced", 0.0)
    assert priced.converged
    assert priced.distance == pytest.approx(exact.distance, rel=0.0101)
    assert priced.distance * (1 - priced.gap) <= exact.distance + 1e-6


def test_the_gap_bounds_how_far_sinkhorn_is_from_exact():
    matrix = cost(120, 20, seed=1)
    exact, entropic = solve(matrix, "exact"), solve(matrix, "sinkhorn", regularisation=0.05)
    assert entropic.distance * (1 - entropic.gap) <= exact.distance <= entropic.distance


def test_pot_is_loaded_without_torch():
    code = (
        "import os, sys, numpy as np; from data_engine.selection.solver import solve; before = dict(os.environ);"
        "solve(np.ones((2, 2))); print('torch' in sys.modules, dict(os.environ) == before)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False True\n"
    )
