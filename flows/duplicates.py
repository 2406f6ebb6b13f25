"""``duplicates``: recordings that are in the lake more than once, within a dataset and across datasets; and, in an
embedding space, those that look alike.

Exact ones by hash; then, whatever the columns are called and however the video was encoded, by the course of the
actions (of the state where there are none): each is resampled to a few points, near ones are found with FAISS and then
held against each other step by step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from data_engine.model import ACTION, STATE
from data_engine.scoring import Clips
from flows.clips import clips, pinned
from storage import indices
from storage.lake import Lake

__all__ = ["alike", "duplicates"]

_READ = 256  # episodes whose vectors are read at once
_POINTS = 16  # of a course, evenly spaced in time
_NEIGHBOURS = 8
_NEAR = 0.05  # root mean square between two courses, in standard deviations of the pool, that makes a candidate
_SAME = 1e-2  # the same over all steps of two recordings of one length, that makes them one
_MOMENTS = 8  # of an episode, evenly spaced, at which what frames show is held against each other
_ALIKE = 32  # nearest episodes of each that are looked at
_RESAMPLED = 3e-2  # the same over all steps of the shorter of two lengths: interpolation adds its own


def duplicates(lake: Lake, episodes: pl.DataFrame) -> list[dict[str, Any]]:
    """Groups of ``episodes`` that are one recording: ``[{"how", "distance", "episodes": [...]}]``, largest first.

    ``how``: ``content`` (steps and frames are equal); ``steps`` (equal steps; the video was encoded again, or a camera
    more); ``actions`` (as many steps, the same actions within ``distance`` standard deviations and states that agree:
    other columns, other types, small noise); ``course`` (the same, of another length: resampled). A group states its
    weakest link. Episodes without actions or states are compared by hash alone. O(episodes x log episodes), memory
    O(episodes); one pass over the actions.
    """
    groups = _Groups()
    for how, column in (("content", "content_hash"), ("steps", "steps_hash")):
        shared = episodes.filter(pl.col(column).is_not_null() & pl.col(column).is_duplicated())
        for _, rows in shared.sort("dataset", "source_key").group_by(column, maintain_order=True):
            first, *others = rows["episode_id"].to_list()
            for other in others:
                groups.join(first, other, how, 0.0)
    once = episodes.unique("steps_hash", maintain_order=True)  # copies would fill each other's neighbourhoods
    for pool in _pools(lake, once):
        for first, second, how, distance in _pairs(lake, episodes, pool):
            groups.join(first, second, how, distance)
    facts = {row["episode_id"]: row for row in episodes.iter_rows(named=True)}
    return groups.told(facts)


def alike(lake: Lake, space: str, episodes: pl.DataFrame, threshold: float) -> list[dict[str, Any]]:
    """Groups of ``episodes`` that are near duplicates in ``space``, as :func:`duplicates` tells them: ``how`` is
    ``space``, ``cosine`` its weakest link.

    Of frames two episodes' cosine is the mean over 8 even moments of the cosine between what the same cameras show
    then, so that a place two recordings share is not enough: everything in it must move alike. It is compared with
    ``threshold`` as it is: a quantile would find its share in a set without any duplicate. Episodes of one vector are
    compared within their (embodiment, control mode). Each is linked with its nearest 32 at most. O(episodes x log
    episodes); memory: 8 vectors an episode and camera. Raises ``RequestError`` where the space holds none of them.
    """
    version = pinned(lake, [space], episodes)[f"space {space}"]
    pools: dict[tuple[Any, ...], tuple[list[str], list[np.ndarray]]] = {}
    for part in episodes.iter_slices(_READ):
        held = clips(lake, space, version, part["episode_id"].to_list(), part["content_hash"].to_list())
        for row, mine in zip(part.iter_rows(named=True), held, strict=True):
            if not len(mine):
                continue
            cameras = sorted({name for name in mine.cameras if name is not None})
            kind = tuple(cameras) if cameras else (row["embodiment"], row["control_mode"])
            ids, vectors = pools.setdefault((bool(cameras), *kind), ([], []))
            ids.append(row["episode_id"])
            vectors.append(np.concatenate([_moments(mine.of(camera)) for camera in cameras or [None]]))
    groups = _Groups()
    for ids, vectors in pools.values():
        matrix = np.stack(vectors)
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        for name, hits in zip(ids, indices.build(matrix, ids).search(matrix, _ALIKE + 1), strict=True):
            for hit in hits:
                if hit.score >= threshold and hit.id != name:
                    groups.join(name, hit.id, "space", 1 - hit.score)
    facts = {row["episode_id"]: row for row in episodes.iter_rows(named=True)}
    found = groups.told(facts)
    return [
        {"how": "space", "cosine": round(1 - group["distance"], 6), "episodes": group["episodes"]} for group in found
    ]


def _moments(clips: Clips) -> np.ndarray:
    """The unit vectors nearest to 8 even moments of an episode, one after the other; one alone as it is."""
    middle = (clips.starts + clips.stops - 1) / 2
    wanted = np.linspace(middle[0], middle[-1], _MOMENTS if len(clips) > 1 else 1)
    rows = np.abs(middle[None] - wanted[:, None]).argmin(axis=1)
    units = clips.vectors[rows] / np.maximum(np.linalg.norm(clips.vectors[rows], axis=1, keepdims=True), 1e-12)
    return np.asarray(units, np.float32).reshape(-1)


@dataclass
class _Pool:
    """Courses of one width: float32 [points, width] of each of ``ids``, and sums over all their steps."""

    column: str
    ids: list[str] = field(default_factory=list)
    courses: list[np.ndarray] = field(default_factory=list)
    total: np.ndarray | None = None
    squares: np.ndarray | None = None
    count: int = 0


def _pools(lake: Lake, episodes: pl.DataFrame) -> Iterator[_Pool]:
    pools: dict[tuple[str, int], _Pool] = {}
    for batch in lake.batches(episodes):
        column = next((name for name in (ACTION, STATE) if name in batch.steps.column_names), None)
        values = None if column is None else batch.array(column)
        if column is None or values is None:
            continue
        ids = batch.episodes.column("episode_id").to_pylist()
        pool = pools.setdefault((column, values.shape[1]), _Pool(column))
        for identity, rows in zip(ids, batch, strict=True):
            steps = values[rows]
            if len(steps) < 2 or not np.isfinite(steps).all():
                continue
            pool.ids.append(identity)
            pool.courses.append(_resampled(steps, _POINTS).astype(np.float32))
            pool.total = steps.sum(0) + (0 if pool.total is None else pool.total)
            pool.squares = (steps**2).sum(0) + (0 if pool.squares is None else pool.squares)
            pool.count += len(steps)
    yield from (pool for pool in pools.values() if len(pool.ids) > 1)


def _pairs(lake: Lake, episodes: pl.DataFrame, pool: _Pool) -> Iterator[tuple[str, str, str, float]]:
    """(first, second, how, distance) of the near courses that are one recording."""
    assert pool.total is not None and pool.squares is not None
    variance = pool.squares / pool.count - (pool.total / pool.count) ** 2
    scale = np.sqrt(np.maximum(variance, 0))
    scale[scale < 1e-9] = np.inf  # a constant tells nothing
    dims = int(np.isfinite(scale).sum())
    if not dims:
        return
    courses = np.stack(pool.courses) / scale.astype(np.float32) / np.sqrt(_POINTS * dims, dtype=np.float32)
    vectors = np.ascontiguousarray(courses.reshape(len(courses), -1), np.float32)
    index = indices.build(vectors, pool.ids, metric="l2")
    rows = {row: i for i, row in enumerate(episodes["episode_id"].to_list())}
    place = {name: i for i, name in enumerate(pool.ids)}
    for i, hits in enumerate(index.search(vectors, min(_NEIGHBOURS + 1, len(vectors)))):
        near = [(float(np.sqrt(max(hit.score, 0))), place[hit.id]) for hit in hits]
        for distance, j in near:
            if j <= i or distance > _NEAR:
                continue
            pair = episodes[[rows[pool.ids[i]], rows[pool.ids[j]]]]
            first, second = sorted((_values(lake, pair[k : k + 1]) for k in (0, 1)), key=lambda v: len(v[pool.column]))
            n, longer = len(first[pool.column]), len(second[pool.column])
            how, most = ("actions", _SAME) if n == longer else ("course", _RESAMPLED)
            apart = (first[pool.column] - _resampled(second[pool.column], n)) / scale
            distance = float(np.sqrt(np.mean(apart[:, np.isfinite(scale)] ** 2)))
            if distance <= most and _states_agree(first.get(STATE), second.get(STATE), most):
                yield pool.ids[i], pool.ids[j], how, distance


def _states_agree(first: np.ndarray | None, second: np.ndarray | None, most: float) -> bool:
    """Whether the states may be of one recording: each moving dimension of the narrower is one of the other's.

    Scripted and saturated actions are alike in recordings that differ. Layouts differ between formats, so dimensions
    are matched by their course. Nothing to compare is no objection.
    """
    if first is None or second is None:
        return True
    second = _resampled(second, len(first))
    narrow, wide = sorted((first, second), key=lambda values: values.shape[1])
    spread = np.nanstd(narrow, axis=0)
    for dim in np.flatnonzero(spread > 1e-9):
        apart = np.sqrt(np.nanmean((wide - narrow[:, dim, None]) ** 2, axis=0)) / spread[dim]
        if not (apart <= most).any():
            return False
    return True


def _resampled(values: np.ndarray, n: int) -> np.ndarray:
    """``values`` [t, d] at ``n`` even points of their course, between steps along a line."""
    at = np.linspace(0, len(values) - 1, n)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, len(values) - 1), (at - low)[:, None]
    return values[low] * (1 - part) + values[high] * part


def _values(lake: Lake, episode: pl.DataFrame) -> dict[str, np.ndarray]:
    (batch,) = lake.batches(episode)
    found = {name: batch.array(name) for name in (ACTION, STATE)}
    return {name: values for name, values in found.items() if values is not None}


class _Groups:
    """Episodes joined into groups; each remembers the weakest link."""

    _STRENGTH = ("content", "steps", "actions", "course", "space")

    def __init__(self) -> None:
        self._of: dict[str, str] = {}
        self._link: dict[str, tuple[str, float]] = {}

    def _root(self, name: str) -> str:
        while (above := self._of.setdefault(name, name)) != name:
            self._of[name] = self._of[above]
            name = above
        return name

    def join(self, first: str, second: str, how: str, distance: float) -> None:
        """``first`` and ``second`` are one; nothing changes where that is known by a link as strong."""
        a, b = self._root(first), self._root(second)
        if a == b:
            return
        links = [self._link.get(root) for root in (a, b)] + [(how, distance)]
        weakest = max((link for link in links if link), key=lambda link: (self._STRENGTH.index(link[0]), link[1]))
        self._of[b] = a
        self._link[a] = weakest

    def told(self, facts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The groups as plain values, largest first."""
        members: dict[str, list[str]] = {}
        for name in self._of:
            members.setdefault(self._root(name), []).append(name)
        groups = [self._group(root, ids, facts) for root, ids in members.items()]
        return sorted(groups, key=lambda group: (-len(group["episodes"]), group["episodes"][0]["episode_id"]))

    def _group(self, root: str, ids: Sequence[str], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        how, distance = self._link[root]
        rows = [{name: facts[i][name] for name in ("episode_id", "dataset", "source_key", "n_steps")} for i in ids]
        rows.sort(key=lambda row: (row["dataset"], row["source_key"]))
        return {"how": how, "distance": round(distance, 6), "episodes": rows}
