"""The units of a mixture's entry as a weigher takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from data_engine import registry
from data_engine.conventions.convert import convert_steps, converted
from data_engine.conventions.convert import resolve as resolve_conversions
from data_engine.document import group_name
from data_engine.recipe import EntryRecipe, MixtureRecipe
from data_engine.steps import EPISODE_ID, STEP
from data_engine.weighers import Drawn, Weigher, Weights
from flows.select import oriented
from storage.lake import Lake

__all__ = ["weigh"]


def weigh(
    lake: Lake,
    recipe: MixtureRecipe,
    entry: EntryRecipe,
    rows: Sequence[Mapping[str, Any]],
    fits: Mapping[str, str] | None = None,
) -> Weights:
    """The weights of the ``rows`` of an entry (episodes with ``start``, ``stop``, ``row_start``, ``row_count`` and the
    selection's ``weight``) by its weigher, on steps after the mixture's conversions.

    ``fits`` pins what scores count. Raises ``RequestError`` where the weigher lacks what it needs.
    """
    weigher: Weigher = registry.make("weighers", entry.weigher, entry.params)
    frame = pl.DataFrame(rows, schema=_COLUMNS, infer_schema_length=None)
    scores = None
    if weigher.needs_score is not None:
        scores = oriented(lake, frame, weigher.needs_score, fits).to_numpy()
    datasets = lake.datasets()
    used = {name: datasets[name] for name in frame["dataset"].unique()}
    conversions = resolve_conversions(recipe.conversions, datasets, used) if weigher.needs_steps else ()

    def steps() -> Iterator[tuple[int, pa.Table]]:
        ordered = frame.with_row_index("at").sort("steps_file", "row_start", "at")
        for at, (_, table) in zip(ordered["at"], lake.steps(ordered), strict=True):
            mine = [conversion for conversion in conversions if conversion.dataset == frame["dataset"][at]]
            kept = table.drop_columns([name for name in (EPISODE_ID, STEP) if name in table.column_names])
            yield at, convert_steps(kept, mine)

    return weigher.weigh(
        Drawn(
            weights=frame["weight"].to_numpy(),
            n_steps=frame["row_count"].to_numpy(),
            unit=recipe.unit,
            datasets=frame["dataset"].to_list(),
            tasks=frame["task"].fill_null("").to_list(),
            operators=frame["operator"].fill_null("").to_list(),
            kinds=[group_name(*kind) for kind in frame.select("embodiment", "control_mode").iter_rows()],
            content_hashes=frame["content_hash"].to_list(),
            described={name: converted(dataset, conversions) for name, dataset in used.items()},
            scores=scores,
            steps=steps,
            seed=recipe.seed,
        )
    )


_COLUMNS = {
    "episode_id": pl.String, "content_hash": pl.String, "dataset": pl.String, "task": pl.String, "operator": pl.String,
    "embodiment": pl.String, "control_mode": pl.String, "steps_file": pl.String, "row_start": pl.Int64,
    "row_count": pl.Int64, "weight": pl.Float64,
}  # fmt: skip
