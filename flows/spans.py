"""Vectors of parts of episodes, as cameras show them: one index over a whole space, and what in it is nearest.

Pictures compare across robots, so a space of frames has one index over all of its steps, beside those of whole
episodes. An answer never depends on when it was built: what it does not hold (embedded since, or changed) is compared
vector by vector beside it, and what is gone or not admitted is left out before anything is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine.canonical import digest
from data_engine.model import EMBEDDINGS
from storage import indices
from storage.lake import Lake

__all__ = ["PLACE", "index_steps", "nearest_episodes", "nearest_steps"]

ROWS_AT_ONCE = 200_000  # vectors compared at once: 400 MB at 512 numbers
PLACE = ("episode_id", "content_hash", "camera", "start", "stop")
_EPISODE = ["episode_id", "content_hash"]
_MORE = 8  # steps looked at for each episode that is asked for, to begin with


def index_steps(lake: Lake, space: str, version: str, episodes: pl.DataFrame) -> dict[str, Any] | None:
    """Build and store the index over all vectors of frames that ``version`` made of ``episodes``, None where there are
    none. Memory: the vectors, twice. What is there already is not read again.
    """
    rows = _rows(lake, space, version).filter(pl.col("camera").is_not_null())
    held = rows.select(_EPISODE).unique().collect().join(episodes, on=_EPISODE, how="semi")
    if not len(held):
        return None
    meta = {"encoder_version": version, "content": digest(sorted(held.iter_rows()), length=16), "episodes": len(held)}
    name = _name(space)
    for stored in (at for there, at in indices.list_indices(lake) if there == name):
        document = indices.described(lake, name, stored)
        if document["meta"] == meta:
            return _told(name, stored, document["form"], document["count"], document["effort"], meta)
    parts = list(_parts(rows, held))
    vectors = np.concatenate([vectors for _, vectors in parts])
    places = pl.concat([place for place, _ in parts]).rename({"episode_id": "id"})
    parts.clear()
    units = places.to_arrow().cast(pa.schema([("id" if name == "episode_id" else name, EMBEDDINGS.field(name).type)
                                              for name in PLACE]))  # fmt: skip
    made = indices.build(vectors, units, meta=meta)
    indices.save(lake, name, made)
    return _told(name, made.version, made.form, len(made), made.effort.as_dict(), meta)


def nearest_steps(
    lake: Lake, space: str, version: str, queries: np.ndarray, episodes: pl.DataFrame, k: int
) -> list[pl.DataFrame]:
    """Of each query [q, d] the ``k`` parts of ``episodes`` with the vector of largest cosine, nearest first: rows of
    ``episode_id``, ``content_hash``, ``camera``, ``start``, ``stop``, ``similarity``; equal ones by their place.
    """
    asked = _unit(queries)
    index, covered, rest = _covering(lake, space, version, episodes)
    found: list[list[pl.DataFrame]] = [[] for _ in asked]
    if index is not None:
        hits = index.search(asked, k, _allowed(index, covered))
        for mine, row in zip(found, hits, strict=True):
            mine.append(_placed(index, row))
    for place, vectors in _parts(_rows(lake, space, version), rest):
        cosines = vectors @ asked.T
        most = min(k, len(place))
        top = np.argpartition(-cosines, most - 1, axis=0)[:most]
        for number, mine in enumerate(found):
            best = top[:, number]
            mine.append(place[best].with_columns(similarity=pl.Series(cosines[best, number].astype(np.float64))))
    return [_best(mine).head(k) for mine in found]


def nearest_episodes(
    lake: Lake, space: str, version: str, query: np.ndarray, episodes: pl.DataFrame, k: int
) -> list[dict[str, Any]]:
    """The ``k`` of ``episodes`` with the vector of largest cosine to ``query`` [d]: ``episode_id``, ``similarity``,
    ``camera``, ``start``, ``stop``; equal ones in the order of their ids.
    """
    asked = _unit(query[None])
    index, covered, rest = _covering(lake, space, version, episodes)
    found = []
    if index is not None:
        allowed, count = _allowed(index, covered), _MORE * k
        while True:
            (hits,) = index.search(asked, count, allowed)
            best = _each(_placed(index, hits))
            if len(best) >= min(k, len(covered)) or len(hits) < count:
                break
            count *= 4
        found.append(best)
    for place, vectors in _parts(_rows(lake, space, version), rest):
        found.append(_each(place.with_columns(similarity=pl.Series((vectors @ asked[0]).astype(np.float64)))).head(k))
    if not found:
        return []
    top = pl.concat(found).sort("similarity", "episode_id", descending=[True, False]).head(k)
    return top.select("episode_id", "similarity", "camera", "start", "stop").to_dicts()


def _covering(
    lake: Lake, space: str, version: str, episodes: pl.DataFrame
) -> tuple[indices.Index | None, pl.DataFrame, pl.DataFrame]:
    """The index that holds most of ``episodes``, those it holds, and the others."""
    wanted = episodes.select(_EPISODE)
    name = _name(space)
    best: tuple[indices.Index | None, pl.DataFrame] = (None, wanted.clear())
    stored = [at for there, at in indices.list_indices(lake) if there == name]
    told = {at: indices.described(lake, name, at) for at in stored}
    fitting = [at for at in stored if told[at]["meta"].get("encoder_version") == version]
    for at in sorted(fitting, key=lambda at: (told[at]["meta"]["episodes"], at), reverse=True):
        index, held = _loaded(lake, name, at)
        covered = wanted.join(held, on=_EPISODE, how="semi")
        if len(covered) > len(best[1]):
            best = (index, covered)
        if len(covered) == len(wanted):
            break
    return *best, wanted.join(best[1], on=_EPISODE, how="anti", maintain_order="left")


@lru_cache(maxsize=2)
def _read(uri: str, name: str, version: str) -> tuple[indices.Index, pl.DataFrame]:
    index = indices.load(Lake.open(uri), name, version)
    units = pl.DataFrame(index.units.select(["id", "content_hash"]))
    return index, units.unique().rename({"id": "episode_id"})


def _loaded(lake: Lake, name: str, version: str) -> tuple[indices.Index, pl.DataFrame]:
    """An index and the episodes in it; kept for the next search, as a version never changes."""
    return _read(lake.uri, name, version)


def _allowed(index: indices.Index, covered: pl.DataFrame) -> list[str] | None:
    """The ids to search among, None for all that the index holds."""
    return None if len(covered) == index.meta["episodes"] else covered["episode_id"].to_list()


def _placed(index: indices.Index, hits: list[indices.Hit]) -> pl.DataFrame:
    rows = pl.DataFrame(index.units.take([hit.row for hit in hits])).rename({"id": "episode_id"})
    return rows.select(PLACE).with_columns(similarity=pl.Series([hit.score for hit in hits], dtype=pl.Float64))


def _best(found: list[pl.DataFrame]) -> pl.DataFrame:
    if not found:
        return pl.DataFrame(schema={**dict.fromkeys(PLACE, pl.String), "similarity": pl.Float64})
    return pl.concat(found).sort("similarity", *PLACE, descending=[True, *[False] * len(PLACE)])


def _each(rows: pl.DataFrame) -> pl.DataFrame:
    """The best of each episode."""
    return _best([rows]).unique("episode_id", keep="first", maintain_order=True)


def _parts(rows: pl.LazyFrame, episodes: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, np.ndarray]]:
    """Where each vector of ``episodes`` lies, and the vectors, of unit length float32 [n, d]; so many at a time that
    memory stays bounded."""
    if not len(episodes):
        return
    count = rows.select(pl.len()).collect().item()
    size = max(-(-len(episodes) // -(-max(count, 1) // ROWS_AT_ONCE)), 1)
    for part in episodes.select(_EPISODE).iter_slices(size):
        mine = rows.filter(pl.col("episode_id").is_in(part["episode_id"].implode())).select(*PLACE, "vector")
        held = mine.collect().join(part, on=_EPISODE, how="semi")
        held = held.unique(PLACE, keep="first", maintain_order=True)  # racing runs embed twice
        if len(held):
            yield held.select(PLACE), _unit(held["vector"].explode().to_numpy().reshape(len(held), -1))


def _rows(lake: Lake, space: str, version: str) -> pl.LazyFrame:
    return lake.scan(f"embeddings/{space}").filter(pl.col("encoder_version") == version)


def _unit(vectors: np.ndarray) -> np.ndarray:
    matrix = np.asarray(vectors, np.float32)
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def _name(space: str) -> str:
    return f"{space}/steps"


def _told(name: str, version: str, form: str, count: int, effort: Any, meta: dict[str, Any]) -> dict[str, Any]:
    return {"space": name, "version": version, "form": form, "count": count, **effort, **meta}
