"""Optimal transport of 20,000 clustered candidates to 1,000 targets, against POT's dense exact solver.

    python benchmarks/selection.py [--quick] [--json] [--large] [--planted]

The measures take turns. ``data-engine``: from the vectors, costs and all, to a transport within one per cent of the
least cost, as its own bound says. POT's network simplex is given the finished cost matrix. The published algorithm,
done plainly, is every cost and then entropic transport (200 iterations of POT's Sinkhorn). The sparse solve is POT's
network simplex on the 20 nearest targets of each candidate: what finds no room there is moved at its true cost
afterwards, and counted. ``--large`` does 150,000 by 2,000 and 1,000,000 by 10,000 as well, which nothing dense does
here. ``--planted`` judges what is chosen instead, on targets of several clusters (:mod:`benchmarks.planted_targets`):
means over seeds, and on how many of them transport is at least as good.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix

from benchmarks.planted_targets import CASES, automatic, judged
from benchmarks.table import Figures, Machine, Row, Table, options_of, ratio, rounds, show
from data_engine.selection.costs import UnitCosts
from data_engine.selection.neighbours import directions
from data_engine.selection.pricing import solve_priced
from data_engine.selection.scaling import leftovers
from data_engine.selection.solver import _pot as pot

SIZES = (20_000, 1_000)
NEAREST = 20
LARGE = ((150_000, 2_000), (1_000_000, 10_000))


def problem(n: int, m: int, d: int = 64, clusters: int = 30, seed: int = 0) -> UnitCosts:
    """Candidates and targets about the same centres, in unlike proportions, so that mass has some way to go."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(clusters, d))
    odds = rng.dirichlet(np.full(clusters, 2.0))
    ours, theirs = rng.choice(clusters, n, p=odds), rng.choice(clusters, m)
    points = (centres[label] + rng.normal(size=(len(label), d)) for label in (ours, theirs))
    return UnitCosts(*(directions(one).astype(np.float32) for one in points))


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--large", action="store_true", help="larger problems, too")
    parser.add_argument("--planted", action="store_true", help="judge what is chosen, on planted targets")
    asked = parser.parse_args()
    if asked.planted:
        return _planted(2 if asked.quick else 8, as_json=asked.json)
    machine, ot = Machine(), pot()
    n, m = (2_000, 400) if asked.quick else SIZES
    costs = problem(n, m)
    matrix = costs.rows(slice(0, n)).astype(np.float64)
    one, other = np.full(n, 1 / n), np.full(m, 1 / m)
    measures: dict[str, Callable[[int], Figures]] = {
        "ours": lambda number: _timed(n, lambda: _priced(costs, ot, number)),
        "exact": lambda _: _timed(n, lambda: {"cost": float(ot.emd2(one, other, matrix, numItermax=10_000_000))}),
    }
    measures["sparse"] = lambda _: _timed(n, lambda: sparse(matrix, ot))
    measures["plain"] = lambda _: _timed(n, lambda: _plain(costs, ot))
    found = rounds(measures, 1 if asked.quick else 3)
    exact = found["exact"][0]["cost"]
    labels = {
        "ours": "data-engine: priced, from the vectors",
        "exact": "POT: emd2, dense and exact, given the costs",
        "sparse": f"POT: emd on the {NEAREST} nearest, given the costs",
        "plain": "the published algorithm: every cost, Sinkhorn",
    }
    rows = {name: Row.of(label, found[name]) for name, label in labels.items()}
    lines = [
        f"{labels[name]}: {statistics.median(each['seconds'] for each in found[name]):.2f} s, cost "
        f"{max(each['cost'] for each in found[name]) / exact - 1:+.2%} of exact"
        for name in labels
    ]
    lines.append(f"the gap that ours names: {max(each['gap'] for each in found['ours']):.2%}")
    lines.append(f"data-engine against POT's exact solver: {ratio(rows['ours'], rows['exact']) or 0:.1f}x")
    elsewhere = max(each["elsewhere"] for each in found["sparse"])
    lines.append(
        f"data-engine against the sparse solve: {ratio(rows['ours'], rows['sparse']) or 0:.1f}x; it knows no bound, and"
        f" {elsewhere:.1%} of its mass has no room among the {NEAREST} nearest"
    )
    lines.append(f"data-engine against the published algorithm: {ratio(rows['ours'], rows['plain']) or 0:.1f}x")
    for size in LARGE if asked.large else ():
        large = problem(*size)
        told = _timed(size[0], lambda large=large: _priced(large, ot, 0))
        lines.append(
            f"{size[0]:,} by {size[1]:,}: {told['seconds']:.1f} s, {told['moved']:,} candidates moved, gap "
            f"{told['gap']:.2%}, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB of the process"
        )
    show([Table(f"Transport of {n:,} to {m:,}", "candidates", list(rows.values()))], lines, machine, as_json=asked.json)
    return 0


def _planted(seeds: int, *, as_json: bool) -> int:
    rows = []
    for case in CASES:
        found = judged(case, range(seeds))
        ours = found["transport"]
        for name, each in found.items():
            row: dict[str, Any] = {"case": case.name, "method": name}
            for figure in ("precision", "loss", "worst"):
                mine, theirs = ([getattr(one, figure) for one in side] for side in (ours, each))
                row[figure] = statistics.mean(theirs)
                sign = 1 if figure == "precision" else -1
                row[f"{figure}_held"] = sum(sign * (a - b) >= -1e-9 for a, b in zip(mine, theirs, strict=True))
            rows.append(row)
    sizes = automatic((0.1, 0.2, 0.3, 0.5), (10, 30, 100), range(min(seeds, 3)))
    if as_json:
        print(json.dumps({"seeds": seeds, "planted": rows, "automatic": sizes}))
        return 0
    print(f"At equal size, means over {seeds} seeds; in brackets on how many transport is at least as good\n")
    print(f"{'case':44} {'method':22} {'precision':>13} {'held-out loss':>13} {'worst cluster':>13}")
    for row in rows:
        cells = (f"{row[figure]:.3f} ({row[f'{figure}_held']})" for figure in ("precision", "loss", "worst"))
        print(f"{row['case']:44} {row['method']:22} " + " ".join(f"{cell:>13}" for cell in cells))
    print("\nThe automatic size, low rank: by the share that is alike, and by the authors' folds\n")
    print("planted  targets  rule   chosen  precision  recall  held-out loss")
    line = "{planted:7.0%}  {targets:7}  {rule:5}  {chosen:6.1%}  {precision:9.2f}  {recall:6.2f}  {loss:13.3f}"
    for row in sizes:
        print(line.format(**row))
    return 0


def _plain(costs: UnitCosts, ot: Any) -> dict[str, Any]:
    n, m = costs.shape
    matrix = costs.rows(slice(0, n)).astype(np.float64)
    plan = ot.sinkhorn(np.full(n, 1 / n), np.full(m, 1 / m), matrix, 0.02, numItermax=200, warn=False)
    return {"cost": float((plan * matrix).sum())}


def sparse(matrix: np.ndarray, ot: Any, pairs: int = NEAREST) -> dict[str, Any]:
    """Transport between the rows and columns of ``matrix`` [n, m] along the ``pairs`` cheapest columns of each row.

    A hub takes what finds no room there, at more than any pair costs; the northwest corner's rule then moves that.
    ``cost`` is so of a whole transport, ``elsewhere`` the share of the mass that went through the hub.
    """
    n, m = matrix.shape
    near = np.argpartition(matrix, pairs - 1, axis=1)[:, :pairs]
    far = float(matrix.max()) + 1.0
    source = np.concatenate([np.repeat(np.arange(n), pairs), np.arange(n), np.full(m + 1, n)])
    target = np.concatenate([near.ravel(), np.full(n, m), np.arange(m + 1)])
    cost = np.concatenate([np.take_along_axis(matrix, near, 1).ravel(), np.full(n + m, far / 2), [0.0]])
    graph = coo_matrix((np.maximum(cost, 1e-12), (source, target)), shape=(n + 1, m + 1))
    masses = (np.append(np.full(size, 1 / size), 1.0) for size in (n, m))
    plan = ot.emd(*masses, graph, numItermax=100_000_000).tocsr()
    left, room = plan[:n, m].toarray().ravel(), plan[n, :m].toarray().ravel()
    near_plan = plan[:n, :m].tocoo()
    row, column, amount = leftovers(left, room)
    moved = near_plan.data @ matrix[near_plan.row, near_plan.col] + amount @ matrix[row, column]
    return {"cost": float(moved), "elsewhere": float(left.sum())}


def _timed(n: int, solve: Callable[[], dict[str, Any]]) -> Figures:
    began = time.perf_counter()
    told = solve()
    seconds = time.perf_counter() - began
    return {**told, "seconds": seconds, "per_second": n / seconds}


def _priced(costs: UnitCosts, ot: Any, seed: int) -> dict[str, Any]:
    found = solve_priced(costs, ot, seed=seed)
    return {"cost": found.distance, "gap": found.gap, "moved": found.sample}


if __name__ == "__main__":
    sys.exit(main())
