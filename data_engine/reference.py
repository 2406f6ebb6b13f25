"""The reference set: a bounded sample of whole episodes, drawn while they stream past.

Each episode gets a number from its motion's hash and the seed; the least numbers stay, until a group's steps reach the
budget. What stays depends neither on order nor on names, nor on what else was recorded (rewards, success, cameras),
and one episode more or less changes little of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from data_engine.canonical import digest
from data_engine.model import ACTION, STATE, TIMESTAMP, Dataset
from data_engine.scoring import EpisodeBatch

__all__ = ["RawEpisode", "Reference", "episodes", "key_of", "matrix"]


@dataclass(frozen=True)
class RawEpisode:
    """State [n, ds] and action [n, da] of one episode as recorded, float64, missing as NaN.

    ``dataset`` holds what its source declares (names, units, fps). ``group`` is (embodiment, control mode, ds, da),
    what shares a view. ``problem`` says why there is nothing to measure (no state or action column, no steps), or is
    None. ``time`` [n] is seconds, where the source has it.
    """

    content_hash: str
    group: str
    task: str
    dataset: Dataset
    state: np.ndarray
    action: np.ndarray
    problem: str | None = None
    time: np.ndarray | None = None

    @cached_property
    def motion_hash(self) -> str:
        """Hash of state and action as float32: what draws, folds and orders go by, and who is left out of what it is
        held against. A content hash covers rewards and success, which must change no score. Its content hash where
        there is nothing to measure."""
        if self.problem is not None:
            return self.content_hash
        with np.errstate(over="ignore", invalid="ignore"):
            return digest(self.state.astype(np.float32).tobytes(), self.action.astype(np.float32).tobytes())

    @property
    def finite(self) -> np.ndarray:
        """bool [n]: the steps whose every number is finite."""
        return np.isfinite(self.state).all(axis=1) & np.isfinite(self.action).all(axis=1)


def key_of(seed: int, *parts: str) -> int:
    """A 63-bit number that depends on ``seed`` and ``parts`` alone."""
    return int(digest(str(seed), *parts, length=16), 16) >> 1


def matrix(batch: EpisodeBatch, column: str) -> np.ndarray | None:
    """``batch.array(column)``; a column of uneven lists is read row by row, rows of another width than declared as NaN.

    None where the column is absent or holds no numbers.
    """
    try:
        return batch.array(column)
    except (ValueError, TypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = batch.steps.column(column).to_pylist()
    rows = [value if isinstance(value, list) else [value] for value in values]
    if any(isinstance(x, str | bytes | dict | list) for row in rows for x in row):
        return None
    declared = batch.dataset.feature(column)
    widths = [len(row) for row in rows]
    width = declared.size if declared else max(set(widths), key=widths.count)
    return np.array([row if len(row) == width else [np.nan] * width for row in rows], dtype=np.float64)


def episodes(batch: EpisodeBatch) -> Iterator[RawEpisode]:
    """The episodes of ``batch``, in order."""
    state, action, time = matrix(batch, STATE), matrix(batch, ACTION), matrix(batch, TIMESTAMP)
    problem = next(
        (f"no numeric {n}" for n, x in ((STATE, state), (ACTION, action)) if x is None or not x.shape[1]), None
    )
    rows = batch.episodes.select(["content_hash", "embodiment", "control_mode", "task"]).to_pylist()
    empty = np.empty((0, 0))
    for row, span in zip(rows, batch, strict=True):
        s, a = (empty, empty) if problem else (state[span], action[span])  # type: ignore[index]
        group = "/".join(
            (
                row["embodiment"] or batch.dataset.embodiment,
                row["control_mode"] or batch.dataset.control_mode,
                f"{s.shape[1]}x{a.shape[1]}",
            )
        )
        wrong = problem or (None if len(s) else "no steps")
        when = None if time is None else time[span, 0]
        yield RawEpisode(row["content_hash"], group, row["task"] or "", batch.dataset, s, a, wrong, when)


class Reference:
    """A bounded sample of the episodes that streamed past.

    ``seen``: content hashes of all of them, sorted, repeats included. ``groups``: the kept episodes of each group, by
    motion hash; the same recording under two names is kept once, one without a single finite step never.
    """

    def __init__(self, batches: Iterable[EpisodeBatch], *, seed: int, budget: int) -> None:
        """Stream ``batches``; ``budget`` is steps for each (group, task)."""
        seen: list[str] = []
        kept: dict[tuple[str, str], dict[str, tuple[int, str, RawEpisode]]] = {}
        for batch in batches:
            for episode in episodes(batch):
                seen.append(episode.content_hash)
                if episode.problem is None and episode.finite.any():
                    pool = kept.setdefault((episode.group, episode.task), {})
                    pool[episode.content_hash] = (key_of(seed, episode.motion_hash), episode.content_hash, episode)
                    _trim(pool, budget)
        self.seen = tuple(sorted(seen))
        self.groups: dict[str, list[RawEpisode]] = {}
        for (group, _), pool in sorted(kept.items()):
            self.groups.setdefault(group, []).extend(episode for _, _, episode in pool.values())
        for members in self.groups.values():
            members.sort(key=lambda episode: (episode.motion_hash, episode.content_hash))


def _trim(pool: dict[str, tuple[int, str, RawEpisode]], budget: int) -> None:
    """Drop the largest keys that the budget does not need."""
    steps = sum(len(episode.state) for _, _, episode in pool.values())
    while True:
        last = max(pool, key=lambda content: pool[content][:2])
        steps -= len(pool[last][2].state)
        if steps < budget:
            return
        del pool[last]
