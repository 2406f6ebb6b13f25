"""Where each exported row comes from, and how often the mixture draws it: ``provenance.parquet`` of every dialect."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from data_engine.exports.rates import rates
from data_engine.mixture import Mixture

__all__ = ["PROVENANCE", "traces"]

PROVENANCE = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("episode_id", pa.string()),
        ("dataset", pa.string()),
        ("source_key", pa.string()),
        ("content_hash", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("weight", pa.float64()),
        ("selection", pa.string()),
        ("split", pa.string()),
        ("rate", pa.float64()),  # how often an epoch of its split draws each step
    ]
)


def traces(mixture: Mixture, order: Sequence[int]) -> pa.Table:
    """The :data:`PROVENANCE` of each exported row, in the export's order, which ``episode_index`` counts."""
    rows = mixture.episodes.take(order)
    beside = {"episode_index": pa.array(range(len(order)), pa.int64()), "rate": pa.array(rates(mixture)[order])}
    columns = {name: beside[name] if name in beside else rows[name] for name in PROVENANCE.names}
    return pa.table(columns).cast(PROVENANCE)
