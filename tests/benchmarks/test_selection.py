import numpy as np
import ot
import pytest

from benchmarks.selection import problem, sparse


def test_a_sparse_solve_costs_what_its_whole_transport_does():
    costs = problem(400, 30, d=8, clusters=5)
    matrix = costs.rows(slice(0, 400)).astype(np.float64)
    exact = ot.emd2([], [], matrix)
    found = sparse(matrix, ot, 30)
    assert found["cost"] == pytest.approx(exact, rel=1e-6)
    assert found["elsewhere"] == pytest.approx(0, abs=1e-9)
    few = sparse(matrix, ot, 3)
    assert few["cost"] >= exact * (1 - 1e-9)
    assert 0 < few["elsewhere"] < 1
