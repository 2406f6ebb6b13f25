"""A lake of one source and a mixture of all that is in it."""

from pathlib import Path
from typing import Any

from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from flows.executor import executor
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.select import select
from storage.lake import Lake


def ingested(source: Path, folder: Path, form: str = "auto", **options: Any) -> Lake:
    """A new lake at ``folder`` that holds ``source``. Raises ``RuntimeError`` where an episode could not be read."""
    lake = Lake.open(str(folder), create=True)
    recipe = SourceRecipe(name="set", uri=str(source), format=form, options=options)
    receipt = ingest(lake, recipe, on=executor("local"), progress=silent(), run_id="run_benchmark")
    if receipt["quarantined"]:
        raise RuntimeError(f"{source}: {receipt['quarantined'][0]}")
    return lake


def frozen(lake: Lake) -> dict[str, Any]:
    """The mixture of every episode of ``lake`` alike."""
    everything = SelectRecipe(name="everything", method="filter")
    select(lake, everything, lake.episodes(), progress=silent(), run_id="run_benchmark")
    return mix(lake, MixtureRecipe(entries=[{"selection": "everything"}]), run_id="run_benchmark")
