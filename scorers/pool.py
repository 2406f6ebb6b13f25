"""Reference pools: the steps of other episodes that a step is held against, one pool per group and task.

A task with at least ``MIN_EPISODES`` reference episodes has a pool of its own; every group has one over all its tasks
for the rest. A pool is a draw of steps keyed by motion hash and seed, so it depends on neither order nor names, and an
episode more or less changes only its own share of it. Episodes far out of the ordinary are scored, but serve nobody as
reference: those with more than ``max(0.1, 3 x the median share)`` of their steps outside the view's usual action range
(relative to the task, so that heavy-tailed actions exclude no one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_engine.reference import RawEpisode, Reference, episodes, key_of
from data_engine.scoring import EpisodeBatch, Fit, Span
from data_engine.view import EpisodeView, View, fit_views

__all__ = ["MIN_EPISODES", "REFERENCE_STEPS", "Pool", "Pools", "usual", "worst_spans"]

MIN_EPISODES = 5
REFERENCE_STEPS = 20_000  # steps kept per (group, task) while fitting


@dataclass(frozen=True)
class Pool:
    """Some reference steps. ``state`` float32 [m, ds], ``action`` float32 [m, da], ``owner`` int64 [m] (the episode, as
    an index into its group's motion hashes). ``task`` None: all tasks of the group. ``episodes``: how many gave steps.
    """

    group: str
    task: str | None
    state: np.ndarray
    action: np.ndarray
    owner: np.ndarray
    episodes: int

    def note(self, view: EpisodeView) -> str | None:
        """What to say of a score against this pool: that it is of every task, or nothing."""
        if self.task is None and view.task:
            return f"against every task: this one has fewer than {MIN_EPISODES} reference episodes"
        return None


@dataclass(frozen=True)
class Pools:
    """The views and the pools of a fit: ``draws`` of them for each (group, task)."""

    views: Mapping[str, View]
    owners: Mapping[str, Mapping[str, int]]
    draws: Mapping[tuple[str, str | None], Sequence[Pool]]

    @staticmethod
    def build(
        batches: Iterable[EpisodeBatch],
        *,
        seed: int,
        size: int,
        draws: int = 1,
        keep: Callable[[EpisodeView], np.ndarray] | None = None,
    ) -> tuple[Pools, tuple[str, ...]]:
        """Pools of at most ``size`` steps from streamed ``batches``, and the content hashes seen.

        ``keep`` says which steps of an episode may serve as reference (bool [m]); all by default.
        """
        reference = Reference(batches, seed=seed, budget=REFERENCE_STEPS)
        return Pools.drawn(reference, seed=seed, size=size, draws=draws, keep=keep), reference.seen

    @staticmethod
    def drawn(
        reference: Reference,
        *,
        seed: int,
        size: int,
        draws: int = 1,
        keep: Callable[[EpisodeView], np.ndarray] | None = None,
        seen_as: Callable[[EpisodeView], EpisodeView] | None = None,
    ) -> Pools:
        """Pools of at most ``size`` steps from the episodes of ``reference``.

        ``seen_as`` puts other coordinates in the place of state and action before steps are drawn.
        """
        views = fit_views(reference)
        found: dict[tuple[str, str | None], Sequence[Pool]] = {}
        owners: dict[str, dict[str, int]] = {}
        for group, raw in sorted(reference.groups.items()):
            owners[group] = {motion: i for i, motion in enumerate(dict.fromkeys(one.motion_hash for one in raw))}
            plain = usual([views[group].measure(episode) for episode in raw])
            plain = [seen_as(view) for view in plain] if seen_as else plain
            tasks = sorted({view.task for view in plain})
            for task in tasks:
                members = [view for view in plain if view.task == task]
                if len(members) >= MIN_EPISODES:
                    found[group, task] = _draw(members, task, owners[group], seed, size, draws, keep)
            if len(tasks) == 1 and (group, tasks[0]) in found:
                found[group, None] = [replace(pool, task=None) for pool in found[group, tasks[0]]]
            else:
                found[group, None] = _draw(plain, None, owners[group], seed, size, draws, keep)
        return Pools(views, owners, found)

    def measure(self, batch: EpisodeBatch) -> list[tuple[RawEpisode, EpisodeView | None]]:
        """Each episode of ``batch`` and its view; None where nothing like it was in the reference."""
        return [
            (raw, self.views[raw.group].measure(raw) if raw.problem is None and raw.group in self.views else None)
            for raw in episodes(batch)
        ]

    def of(self, view: EpisodeView) -> Sequence[Pool]:
        """The draws that ``view`` is held against: its task's, or its group's where the task is rare or new."""
        return self.draws.get((view.group, view.task)) or self.draws[view.group, None]

    def owner(self, view: EpisodeView) -> int:
        """Index of the episode in its group's reference, -1 for one that is not in it."""
        return self.owners[view.group].get(view.motion_hash, -1)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a fit keeps as arrays."""
        return {
            f"{number}.{draw}.{name}": getattr(pool, name)
            for number, pools in enumerate(self.draws.values())
            for draw, pool in enumerate(pools)
            for name in ("state", "action", "owner")
        }

    def meta(self) -> dict[str, Any]:
        """What a fit keeps as plain JSON."""
        return {
            "views": {group: view.as_dict() for group, view in self.views.items()},
            "owners": {group: list(hashes) for group, hashes in self.owners.items()},
            "pools": [
                {"group": group, "task": task, "draws": len(pools), "episodes": pools[0].episodes}
                for (group, task), pools in self.draws.items()
            ],
        }

    @staticmethod
    def load(fit: Fit) -> Pools:
        """The pools that ``arrays`` and ``meta`` of a fit hold."""
        draws = {
            (entry["group"], entry["task"]): [
                Pool(
                    group=entry["group"],
                    task=entry["task"],
                    episodes=entry["episodes"],
                    **{name: fit.arrays[f"{number}.{draw}.{name}"] for name in ("state", "action", "owner")},
                )
                for draw in range(entry["draws"])
            ]
            for number, entry in enumerate(fit.meta["pools"])
        }
        owners = {group: {motion: i for i, motion in enumerate(found)} for group, found in fit.meta["owners"].items()}
        return Pools({group: View(**view) for group, view in fit.meta["views"].items()}, owners, draws)


def worst_spans(
    values: np.ndarray, bad: np.ndarray, reason: str, *, limit: int = 5, least: int = 3, gap: int = 2
) -> tuple[Span, ...]:
    """The runs of ``bad`` steps with the largest sum of ``values`` (NaN counts 0), in time order.

    Runs up to ``gap`` steps apart are one; a run shorter than ``least`` steps is none.
    """
    steps = np.flatnonzero(bad)
    if not len(steps):
        return ()
    runs = np.split(steps, np.flatnonzero(np.diff(steps) > gap + 1) + 1)
    spans = [(int(run[0]), int(run[-1]) + 1) for run in runs if run[-1] - run[0] + 1 >= least]
    spans.sort(key=lambda span: (-float(np.nansum(values[span[0] : span[1]])), span))
    return tuple(Span(start, stop, reason) for start, stop in sorted(spans[:limit]))


def usual(views: Sequence[EpisodeView]) -> list[EpisodeView]:
    """Those that may serve as reference: not outside the usual range much more than their task's median episode."""
    kept = []
    for task in sorted({view.task for view in views}):
        members = [view for view in views if view.task == task]
        limit = max(0.1, 3 * float(np.median([view.outside for view in members])))
        kept += [view for view in members if view.outside <= limit]
    return kept


def _draw(
    views: Sequence[EpisodeView],
    task: str | None,
    owners: Mapping[str, int],
    seed: int,
    size: int,
    draws: int,
    keep: Callable[[EpisodeView], np.ndarray] | None,
) -> list[Pool]:
    """``draws`` pools of the ``size`` steps with the least numbers, each step's from its episode's hash and place."""
    state = np.concatenate([view.state for view in views])
    action = np.concatenate([view.action for view in views])
    owner = np.concatenate([np.full(len(view.state), owners[view.motion_hash], np.int64) for view in views])
    numbers = np.concatenate(
        [
            np.random.default_rng(key_of(seed, view.motion_hash, "steps")).random((len(view.state), draws))
            for view in views
        ]
    )
    if keep is not None:
        numbers[~np.concatenate([keep(view) for view in views])] = np.inf
    pools = []
    for draw in range(draws):
        order = np.lexsort((owner, numbers[:, draw]))[:size]
        order = order[np.isfinite(numbers[order, draw])]
        members = len(np.unique(owner[order]))
        pools.append(Pool(views[0].group, task, state[order], action[order], owner[order], members))
    return pools
