"""Optimal transport between two uniform distributions: POT's network simplex, or Sinkhorn above its reach."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["EXACT_CELLS", "Solution", "SolverName", "solve"]

SolverName = Literal["auto", "exact", "sinkhorn"]
EXACT_CELLS = 20_000_000
"""Largest cost matrix (rows times columns) that ``auto`` solves exactly: about 7 s and 0.5 GB."""


@dataclass(frozen=True)
class Solution:
    """What transport costs, and what each source point costs.

    ``distance``: the transport cost. ``potential`` float64 [n]: the dual of each source point, small where it is cheap
    to serve the targets from, defined up to a shift. ``solver``: which ran. ``converged``: whether it ended in time.
    """

    distance: float
    potential: np.ndarray
    solver: str
    converged: bool


def solve(cost: np.ndarray, solver: SolverName = "auto", regularisation: float = 0.02) -> Solution:
    """Transport between the rows and the columns of ``cost`` float64 [n, m], each of equal mass.

    Exact: the source potential is the c-transform min_j(C_ij - g_j) of the target potential, which is the same for the
    same cost whichever basis the simplex ended in. Sinkhorn (log domain): ``regularisation`` is the entropic epsilon in
    units of the cost, and the distance is that of the entropic plan, without the entropy.
    """
    n, m = cost.shape
    source, target = np.full(n, 1.0 / n), np.full(m, 1.0 / m)
    if solver == "auto":
        solver = "exact" if n * m <= EXACT_CELLS else "sinkhorn"
    ot = _pot()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what POT warns of is returned as ``converged``
        if solver == "exact":
            distance, log = ot.emd2(source, target, cost, numItermax=10_000_000, log=True)
            potential = (cost - log["v"][None, :]).min(axis=1)
            return Solution(float(distance), potential, solver, log["warning"] is None)
        plan, log = ot.bregman.sinkhorn_log(
            source, target, cost, regularisation, numItermax=2000, stopThr=1e-6, log=True
        )
    potential = regularisation * log["log_u"]
    return Solution(float((plan * cost).sum()), potential, solver, bool(log["err"][-1] <= 1e-6))


def _pot() -> Any:
    """POT, without the deep-learning back ends that it otherwise imports for seconds."""
    names = [f"POT_BACKEND_DISABLE_{name}" for name in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW")]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        import ot
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return ot
