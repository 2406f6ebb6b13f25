"""Parts of episodes that look like a part of one, whatever their speed: sub-trajectory retrieval.

After Memmel et al., "STRAP: Robot Sub-Trajectory Retrieval for Augmented Policy Learning" (2025): subsequence dynamic
time warping over frame embeddings. Not every episode is aligned: the vectors nearest to each of the query's (FAISS)
give a lower bound of what any alignment costs, and what cannot be among the best by it is never read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from data_engine.errors import RequestError
from data_engine.scoring import Clips
from flows.clips import clips, pinned
from flows.query import matching
from flows.spans import nearest_steps
from scorers.kernels.subsequence import matches
from storage.lake import Lake

__all__ = ["parts_like"]

_AT_ONCE = 64  # sequences that are read and aligned together
_MOST = 4096  # of them altogether
_NEIGHBOURS = 256  # of each vector of the query, to begin with
_SHOWN = ("dataset", "source_key", "task", "operator", "success", "n_steps")
_Sequence = tuple[str, str, str | None]  # episode, content hash, camera


def parts_like(
    lake: Lake, space: str, episode: str, start: int, stop: int, *, camera: str | None = None, k: int = 10,
    where: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The ``k`` episodes with the part most like steps [start, stop) of ``episode`` as ``camera`` shows them (None: its
    first by name), best first, itself left out.

    Returns ``items``, rows with ``episode_id``, ``cost`` (mean cosine distance along the alignment, for each vector of
    the query), ``camera``, ``start``, ``stop`` and the episode's facts; ``aligned``, how many sequences were; and
    ``exact``: whether no other can be better, as far as the index finds what is near. Raises ``RequestError`` where the
    space has no vectors of parts of that episode.
    """
    everything = lake.episodes()
    mine = everything.filter(pl.col("episode_id") == episode)
    if not len(mine):
        raise RequestError(f"no episode {episode!r} in the lake", code="unknown_episode", fix="see `data-engine query`")
    if not 0 <= start < stop <= mine["n_steps"][0]:
        raise RequestError(
            f"steps {start} to {stop} are not within the {mine['n_steps'][0]} of {episode}", code="bad_range"
        )
    admitted, _ = matching(lake, everything, where)
    admitted = admitted.filter(pl.col("episode_id") != episode)
    version = pinned(lake, [space], mine)[f"space {space}"]
    query = _query(lake, space, version, mine.row(0, named=True), camera, start, stop)
    found = _Retrieval(lake, space, version, query, admitted, k)
    best, exact = found.run()
    rows = {row["episode_id"]: row for row in admitted.iter_rows(named=True)}
    items = [
        {"episode_id": name, "cost": round(cost, 6), "camera": place[0], "start": place[1], "stop": place[2],
         **{key: rows[name][key] for key in _SHOWN}}
        for name, cost, place in best
    ]  # fmt: skip
    return {"items": items, "aligned": len(found.done), "exact": exact}


def _query(
    lake: Lake, space: str, version: str, episode: dict[str, Any], camera: str | None, start: int, stop: int
) -> np.ndarray:
    (held,) = clips(lake, space, version, [episode["episode_id"]], [episode["content_hash"]])
    cameras = sorted({name for name in held.cameras if name is not None})
    if not cameras:
        raise RequestError(
            f"space {space!r} has one vector of an episode, none of its parts",
            code="no_such_query",
            fix="search a space of frames",
        )
    if camera is not None and camera not in cameras:
        raise RequestError(
            f"space {space!r} has no camera {camera!r} of it", code="no_such_query", fix=f"of: {', '.join(cameras)}"
        )
    shown = held.of(camera or cameras[0])
    inside = (shown.starts >= start) & (shown.starts < stop)
    if not inside.any():
        raise RequestError(
            f"no vector begins in steps {start} to {stop} of {episode['n_steps']}",
            code="bad_range",
            fix="give a longer range of steps",
        )
    return shown.vectors[inside]


class _Retrieval:
    """One search: what was aligned, and what the rest costs at least."""

    def __init__(self, lake: Lake, space: str, version: str, query: np.ndarray, episodes: pl.DataFrame, k: int) -> None:
        self.lake, self.space, self.version, self.episodes, self.k = lake, space, version, episodes, k
        self.query = query / np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-12)
        self.done: set[_Sequence] = set()
        self.best: dict[str, tuple[float, tuple[str | None, int, int]]] = {}

    def run(self) -> tuple[list[tuple[str, float, tuple[str | None, int, int]]], bool]:
        """(episode, cost, (camera, start, stop)) of the best, and whether that is sure."""
        neighbours = _NEIGHBOURS
        while True:
            bounds, unseen = self._bounds(neighbours)
            exact = self._align(bounds) and self._worst() <= unseen
            if exact or len(self.done) >= _MOST:
                break
            neighbours *= 4
        ranked = sorted((cost, name, place) for name, (cost, place) in self.best.items())[: self.k]
        return [(name, cost, place) for cost, name, place in ranked], exact

    def _worst(self) -> float:
        """What the k-th best costs so far, infinite with fewer."""
        costs = sorted(cost for cost, _ in self.best.values())
        return costs[self.k - 1] if len(costs) >= self.k else np.inf

    def _bounds(self, neighbours: int) -> tuple[list[tuple[float, _Sequence]], float]:
        """What each sequence with a near vector costs at least, cheapest first, and what any other does; infinite where
        there is none. A vector that is not among the ``neighbours`` of a row is no nearer to it than the last of them.
        """
        found = nearest_steps(self.lake, self.space, self.version, self.query, self.episodes, neighbours)
        floors = np.array([1 - rows["similarity"][-1] if len(rows) == neighbours else np.inf for rows in found])
        known: dict[_Sequence, np.ndarray] = {}
        for number, rows in enumerate(found):
            for *place, similarity in rows.select("episode_id", "content_hash", "camera", "similarity").iter_rows():
                row = known.setdefault((place[0], place[1], place[2]), floors.copy())
                row[number] = min(row[number], 1 - similarity)
        bounds = [(float(np.mean(row)), sequence) for sequence, row in known.items()]
        return sorted(bounds, key=lambda bound: (bound[0], str(bound[1]))), float(np.mean(floors))

    def _align(self, bounds: list[tuple[float, _Sequence]]) -> bool:
        """Align in order of the bounds until none of the rest can be among the best; False where that was too many."""
        todo = [bound for bound in bounds if bound[1] not in self.done]
        for first in range(0, len(todo), _AT_ONCE):
            if todo[first][0] > self._worst() + 1e-6:
                return True
            if len(self.done) >= _MOST:
                return False
            self._read([sequence for _, sequence in todo[first : first + _AT_ONCE]])
        return True

    def _read(self, sequences: list[_Sequence]) -> None:
        self.done.update(sequences)
        episodes = list(dict.fromkeys((name, content) for name, content, _ in sequences))
        held = clips(self.lake, self.space, self.version, *(list(column) for column in zip(*episodes, strict=True)))
        by_episode = dict(zip(episodes, held, strict=True))
        shown: list[Clips] = [by_episode[name, content].of(camera) for name, content, camera in sequences]
        offsets = np.cumsum([0, *map(len, shown)])
        costs, starts, stops = matches(self.query, np.concatenate([each.vectors for each in shown]), offsets)
        for (name, _, camera), each, cost, a, b in zip(
            sequences, shown, costs.tolist(), starts.tolist(), stops.tolist(), strict=True
        ):
            if name not in self.best or cost < self.best[name][0]:
                self.best[name] = (cost, (camera, int(each.starts[a]), int(each.stops[b - 1])))
