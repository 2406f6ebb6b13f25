"""Scores of whole sets: each dataset's episodes and each operator's, by scorers that measure sets.

Their rows lie beside those of episodes, with ``unit_kind`` ``dataset`` or ``operator`` and, for content, a hash of the
episodes that were measured: a set that changed is measured anew, and what was said of it before stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from data_engine import registry
from data_engine.canonical import digest
from data_engine.model import SCORES
from data_engine.scoring import Scorer, ScoreRow
from flows.executor import Executor, Shard, run_shards, set_threads
from flows.progress import Progress
from flows.score import again, device, episode_row, in_order
from storage.lake import Lake

__all__ = ["score_sets"]


def score_sets(
    lake: Lake, scorer: Scorer, fit_id: str, episodes: pl.DataFrame, *, on: Executor, progress: Progress, run_id: str
) -> int:
    """Measure each dataset and each operator among ``episodes`` against a stored fit; how many were not yet."""
    spec = scorer.spec
    common = [spec.name, spec.version, scorer.config_hash, fit_id]
    mine = (pl.col("scorer") == spec.name) & (pl.col("fit_id") == fit_id) & (pl.col("version") == spec.version)
    mine &= (pl.col("config_hash") == scorer.config_hash) & (pl.col("unit_kind") != "episode")
    stored = lake.scan("scores").filter(mine).select("unit_kind", "unit_id", "content_hash").collect()
    have = set(stored.iter_rows())
    shards = [
        Shard(
            digest("score set", common, kind, unit, content),
            {"scorer": spec.name, "params": scorer.config, "fit": fit_id, "kind": kind, "unit": unit,
             "content": content, "episodes": part["episode_id"].to_list(), "run_id": run_id},
        )
        for kind, unit, content, part in _sets(episodes)
        if (kind, unit, content) not in have
    ]  # fmt: skip
    run_shards(
        lake, "flows.score_sets:score_set_shard", shards, on=on, progress=progress, title=f"score sets {spec.name}",
        resources=spec.resources,
    )  # fmt: skip
    if shards:
        transaction = digest("score sets", [shard.fingerprint for shard in shards], *again(lake))
        file = lake.write_file(
            "scores", transaction[:32], (lake.read_pending(shard.fingerprint) for shard in shards), SCORES
        )
        lake.commit("scores", [file], transaction=transaction, run_id=run_id, config_hash=scorer.config_hash)
    return len(shards)


def score_set_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Measure one set against a stored fit. A scorer that fails on it says so in its rows."""
    set_threads(cpus)
    scorer: Scorer = registry.make("scorers", payload["scorer"], payload["params"])
    fit = lake.get_fit(scorer.spec.name, payload["fit"])
    try:
        found = scorer.score_set(in_order(lake, scorer, payload["episodes"]), fit, device=device())
    except (MemoryError, OSError):
        raise
    except Exception as error:  # as of an episode: it is kept with its reason, and the rest goes on
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        found = [ScoreRow(metric.name, None, "error", reason) for metric in scorer.spec.set_metrics]
    unit = {"episode_id": payload["unit"], "content_hash": payload["content"]}
    steps = int(lake.episodes().filter(pl.col("episode_id").is_in(payload["episodes"]))["n_steps"].sum())
    rows = [
        {
            **episode_row(scorer, payload["fit"], unit, steps, row),
            "unit_kind": payload["kind"],
            "run_id": payload["run_id"],
        }
        for row in found
    ]
    lake.write_pending(fingerprint, pa.Table.from_pylist(rows, schema=SCORES))
    return {"rows": len(rows)}


def _sets(episodes: pl.DataFrame) -> Iterator[tuple[str, str, str, pl.DataFrame]]:
    """(kind, name, content, episodes) of each dataset and of each operator that is named."""
    for kind in ("dataset", "operator"):
        named = episodes.filter(pl.col(kind).is_not_null())
        for (unit,), part in sorted(named.partition_by(kind, as_dict=True).items()):
            yield kind, str(unit), digest(sorted(part["content_hash"])), part
