"""Clusters of a mixture's episodes, frozen with it: what a goal of another episode is drawn from.

They lie beside the mixture's other tables as ``clusters.parquet``: a row a row of its episodes, an int32 column for
each clustering. A loader needs neither the space nor the vectors, and draws the same goals for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from data_engine.canonical import digest
from data_engine.document import Clustering
from data_engine.errors import RequestError

__all__ = ["CLUSTERS", "check", "content", "renumbered", "schema"]

CLUSTERS = "clusters.parquet"


def schema(clusterings: Sequence[Clustering]) -> pa.Schema:
    """That of ``clusters.parquet``."""
    return pa.schema([(each.name, pa.int32()) for each in clusterings])


def check(clusters: pa.Table, clusterings: Sequence[Clustering], rows: int) -> None:
    """Raise ``RequestError`` where ``clusters`` are not those of ``clusterings``, a number for each of ``rows``."""
    names = [each.name for each in clusterings]
    if clusters.column_names != names or len(set(names)) < len(names):
        raise RequestError(f"clusters {', '.join(names)} are not those given", code="bad_mixture")
    if clusters.num_rows != rows or any(column.null_count for column in clusters.columns):
        raise RequestError("a row of the mixture is in no cluster", code="bad_mixture")


def renumbered(clusters: pa.Table) -> pa.Table:
    """The same groups, numbered as they come: what they were called before is no part of the mixture."""
    columns = {}
    for name in clusters.column_names:
        _, first, group = np.unique(clusters[name].to_numpy(), return_index=True, return_inverse=True)
        columns[name] = pa.array(np.argsort(np.argsort(first))[group], pa.int32())
    return pa.table(columns)


def content(clusters: pa.Table) -> str:
    """A hash of the groups, whatever the bytes of the file."""
    return digest({name: clusters[name].to_pylist() for name in clusters.column_names})
