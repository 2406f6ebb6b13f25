"""How a score is distributed over episodes: a histogram and quantiles, nulls counted apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from flows.query import matching, score_column, score_metric
from storage.lake import Lake

__all__ = ["distribution"]


def distribution(
    lake: Lake, name: str, *, where: str | None = None, bins: int = 50,
    quantiles: Sequence[float] = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99),
) -> dict[str, Any]:  # fmt: skip
    """Of the score ``name`` (as in expressions) over the episodes that ``where`` admits.

    Returns ``{"name", "unit", "better", "episodes", "undecided", "nulls", "min", "max", "mean", "edges" [bins + 1],
    "counts" [bins], "quantiles": [{"share", "value"}]}``, numbers None and lists empty where no value is known. Raises
    ``RequestError`` for an unknown score or a wrong expression.
    """
    metric = score_metric(name)
    admitted, undecided = matching(lake, lake.episodes(), where)
    values = score_column(lake, admitted, name) if len(admitted) else pl.Series([], dtype=pl.Float64)
    known = values.drop_nulls().drop_nans().to_numpy()
    known = known[np.isfinite(known)]
    facts: dict[str, Any] = {
        "name": name, "unit": metric.unit, "better": metric.better, "episodes": len(admitted), "undecided": undecided,
        "nulls": len(admitted) - len(known), "min": None, "max": None, "mean": None, "edges": [], "counts": [],
        "quantiles": [],
    }  # fmt: skip
    if not len(known):
        return facts
    counts, edges = np.histogram(known, bins=bins)
    shares = np.quantile(known, list(quantiles))
    return facts | {
        "min": float(known.min()), "max": float(known.max()), "mean": float(known.mean()), "edges": edges.tolist(),
        "counts": counts.tolist(),
        "quantiles": [{"share": q, "value": float(v)} for q, v in zip(quantiles, shares, strict=True)],
    }  # fmt: skip
