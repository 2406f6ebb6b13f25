"""Optimal transport between two uniform distributions: POT's network simplex, on the pairs that matter where they are
many, or Sinkhorn."""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from data_engine.selection.costs import Costs, DenseCosts
from data_engine.selection.pricing import solve_priced

__all__ = ["EXACT_CELLS", "Solution", "SolverName", "solve"]

SolverName = Literal["auto", "exact", "priced", "sinkhorn"]
EXACT_CELLS = 2_000_000
"""Largest cost matrix (rows times columns) that ``auto`` solves exactly: about half a second."""

_GAP = 0.01
_IMPORTING = threading.Lock()


@dataclass(frozen=True)
class Solution:
    """What transport costs, and what each source point costs.

    ``distance``: the transport cost. ``potential`` float64 [n]: the dual of each source point, small where it is cheap
    to serve the targets from, defined up to a shift. ``solver``: which ran. ``converged``: whether it ended in time.
    ``gap``: how far, at most, ``distance`` is above the exact one, as a share of it, by the dual bound.
    """

    distance: float
    potential: np.ndarray
    solver: str
    converged: bool
    gap: float = 0.0


def solve(given: np.ndarray | Costs, solver: SolverName = "auto", regularisation: float = 0.02) -> Solution:
    """Transport between the rows and the columns of ``given`` float64 [n, m], each of equal mass.

    Exact: the source potential is the c-transform min_j(C_ij - g_j) of the target potential, which is the same for the
    same cost whichever basis the simplex ended in. Priced: to within one per cent, see
    ``data_engine.selection.pricing``; what ``auto`` takes above ``EXACT_CELLS``. Sinkhorn (log domain):
    ``regularisation`` is the entropic epsilon in units of the cost, and the distance is that of the entropic plan,
    without the entropy.
    """
    costs = DenseCosts(given) if isinstance(given, np.ndarray) else given
    n, m = costs.shape
    source, target = np.full(n, 1.0 / n), np.full(m, 1.0 / m)
    if solver == "auto":
        solver = "exact" if n * m <= EXACT_CELLS else "priced"
    ot = _pot()
    if solver == "priced":
        found = solve_priced(costs, ot, gap=_GAP)
        return Solution(found.distance, found.potential, solver, found.gap <= _GAP, found.gap)
    cost = costs.rows(slice(0, n)).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what POT warns of is returned as ``converged``
        if solver == "exact":
            distance, log = ot.emd2(source, target, cost, numItermax=10_000_000, log=True)
            potential = (cost - log["v"][None, :]).min(axis=1)
            return Solution(float(distance), potential, solver, log["warning"] is None)
        plan, log = ot.bregman.sinkhorn_log(
            source, target, cost, regularisation, numItermax=2000, stopThr=1e-6, log=True
        )
    potential, prices = regularisation * log["log_u"], regularisation * log["log_v"]
    distance = float((plan * cost).sum())
    bound = float((cost - prices).min(axis=1).mean() + prices.mean())
    gap = max(distance - bound, 0.0) / max(distance, 1e-12)
    return Solution(distance, potential, solver, bool(log["err"][-1] <= 1e-6), gap)


@cache
def _pot() -> Any:
    """POT, without the deep-learning back ends that it otherwise imports for seconds.

    It is shown another ``os.environ`` meanwhile: the process's own is read by other threads, outside Python's lock.
    """
    with _IMPORTING:
        before = os.environ
        off = {f"POT_BACKEND_DISABLE_{name}": "1" for name in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW")}
        os.environ = {**before, **off}  # type: ignore[assignment]  # noqa: B003
        try:
            import ot
        finally:
            os.environ = before  # noqa: B003
    return ot
