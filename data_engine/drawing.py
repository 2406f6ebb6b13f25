"""What a mixture's document says of drawing, applied to its rows: the one place where both are read together."""

from __future__ import annotations

from functools import partial

import numpy as np

from data_engine.mixture import Mixture
from data_engine.quotas import factors
from data_engine.sampling import Draws, Units

__all__ = ["drawing"]


def drawing(mixture: Mixture, rows: np.ndarray, key: int = 0) -> Draws:
    """How ``rows`` (int64 [n], of one split) of ``mixture`` are drawn, under ``key``. O(R)."""
    document, numbers = mixture.document, mixture.rows
    names, selection = mixture.coded.codes("selection")
    number = {entry.selection: i for i, entry in enumerate(document.entries)}
    entry = np.array([number[name] for name in names.to_pylist()])
    units = Units(
        entry[selection[rows]],
        mixture.coded.codes("dataset")[1][rows],
        numbers["weight"][rows],
        numbers["row_count"][rows],
        np.array([entry.weight for entry in document.entries]),
    )
    share = None
    if document.quotas:
        provenances, provenance = mixture.coded.codes("provenance")
        share = partial(factors, document.quotas, provenances.to_pylist(), provenance[rows])
    return Draws(units, document.weight_kind, document.unit, document.epoch_size, key, share)
