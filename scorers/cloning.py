"""Policies cloned from a reference set: an ensemble for each fold of its episodes, which saw none of that fold.

A number made from an episode's content says which fold it belongs to, whether it was in the reference or comes later:
so what is expected of an episode never comes from that episode, and a newcomer is judged as it would be inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_engine.reference import Reference, key_of
from data_engine.scoring import Fit
from data_engine.view import EpisodeView, View, fit_views
from scorers.kernels import policy
from scorers.pool import MIN_EPISODES, usual

__all__ = ["STEPS", "Clones", "Demonstrations"]

STEPS = 60_000  # steps of a group that its policies learn from
_TASKS = 64  # tasks of a group that a policy is told apart
_HELD_OUT = 10  # one episode in this many tells a member when to stop


@dataclass(frozen=True)
class Demonstrations:
    """Steps of one group's episodes as a policy sees them.

    ``inputs`` float32 [n, ds + tasks]: the state, then which task it is. ``chunk`` float32 [n, h, da] and ``known``
    bool [n, h]: the actions from each step on. ``owner`` int64 [n]: the episode, as an index.
    """

    inputs: np.ndarray
    chunk: np.ndarray
    known: np.ndarray
    owner: np.ndarray

    @staticmethod
    def of(views: Sequence[EpisodeView], tasks: Sequence[str], horizon: int) -> Demonstrations:
        """The steps of ``views`` back to back."""
        owner = np.repeat(np.arange(len(views)), [len(view.state) for view in views])
        action = np.concatenate([view.action for view in views])
        time = np.concatenate([np.flatnonzero(view.valid) for view in views])
        which = np.concatenate(
            [
                np.tile(np.array([task == view.task for task in tasks], np.float32), (len(view.state), 1))
                for view in views
            ]
        )
        inputs = np.concatenate([np.concatenate([view.state for view in views]), which], axis=1)
        chunk, known = policy.action_chunks(action, owner, time, horizon)
        return Demonstrations(inputs, chunk, known, owner)

    def thinned(self, most: int) -> Demonstrations:
        """At most ``most`` of the steps, evenly spread."""
        some = np.linspace(0, len(self.inputs) - 1, min(len(self.inputs), most)).astype(np.int64)
        return Demonstrations(self.inputs[some], self.chunk[some], self.known[some], self.owner[some])

    def error(self, expected: np.ndarray) -> np.ndarray:
        """Squared error of ``expected`` [..., n, h, da] summed over action dimensions, mean over what is known of each
        chunk: float64 [..., n]. The first action of a chunk is always known.
        """
        square = ((expected.astype(np.float64) - self.chunk) ** 2).sum(axis=-1) * self.known
        return square.sum(axis=-1) / self.known.sum(axis=-1)


@dataclass(frozen=True)
class Clones:
    """The policies of a fit. ``weights`` holds folds x ``members`` policies a group, a fold's members side by side.

    ``tasks``: the tasks that a group's policies are told. ``cuts``: by group and task ("" for the rest), the numbers
    that part the folds. A group that has too little to learn from has no weights. ``trained``: by group how
    the training ended (``Training.ended``).
    """

    seed: int
    members: int
    horizon: int
    views: Mapping[str, View]
    tasks: Mapping[str, Sequence[str]]
    cuts: Mapping[str, Mapping[str, Sequence[int]]]
    weights: Mapping[str, Mapping[str, np.ndarray]]
    trained: Mapping[str, Mapping[str, Any]]

    @staticmethod
    def fit(
        reference: Reference,
        *,
        seed: int,
        folds: int,
        members: int,
        horizon: int,
        limit: int = 3000,
        alone: bool = False,
        device: str = "cpu",
    ) -> Clones:
        """Train on the episodes of ``reference`` that are not far out of the ordinary, at most ``STEPS`` steps a group.

        ``folds`` is as many as there are episodes where those are fewer; one member of a fold holds out other episodes
        than the next. With ``folds`` 1 nothing is kept apart: every member learns from everything. Training ends when
        no held-out loss falls any more, each by itself with ``alone``, or after ``limit`` iterations.
        """
        views = fit_views(reference)
        found: dict[str, dict[str, np.ndarray]] = {}
        told: dict[str, list[str]] = {}
        cuts: dict[str, dict[str, list[int]]] = {}
        ended: dict[str, dict[str, Any]] = {}
        for group, raw in sorted(reference.groups.items()):
            members_of = usual([views[group].measure(episode) for episode in raw])
            kept = sorted(_within(members_of, seed), key=lambda view: view.motion_hash)
            counts = {task: sum(view.task == task for view in kept) for task in sorted({view.task for view in kept})}
            often = sorted(counts, key=lambda task: (-counts[task], task))[:_TASKS]
            told[group] = sorted(task for task in often if counts[task] >= MIN_EPISODES)
            if len(kept) < min(folds, 2) or not kept[0].action.shape[1]:
                continue
            some = min(folds, len(kept))
            cuts[group] = {
                task: _cuts([_key(seed, v) for v in kept if not task or v.task == task], some)
                for task in ["", *told[group]]
            }
            fold = np.array([_fold(cuts[group], view, seed) for view in kept])
            learns, stops = _parts(fold, [_key(seed, view) for view in kept], some, members)
            steps = Demonstrations.of(kept, told[group], horizon)
            training = policy.train(
                steps.inputs, steps.chunk, steps.known, steps.owner, learns, stops, seed=seed % 2**63, limit=limit,
                alone=alone, device=device,
            )  # fmt: skip
            found[group] = training.weights
            ended[group] = training.ended
        return Clones(seed, members, horizon, views, told, cuts, found, ended)

    def steps(self, view: EpisodeView) -> Demonstrations:
        """``view`` as its group's policies see it."""
        return Demonstrations.of([view], self.tasks[view.group], self.horizon)

    def expected(self, view: EpisodeView, steps: Demonstrations, device: str = "cpu") -> np.ndarray:
        """Chunks float32 [members, m, h, da] that the ensemble of the episode's fold expects at its steps."""
        first = self.fold(view) * self.members
        which = slice(first, first + self.members)
        return policy.predict(self.weights[view.group], steps.inputs, which, device)

    def fold(self, view: EpisodeView) -> int:
        """The fold that ``view`` belongs to."""
        return _fold(self.cuts[view.group], view, self.seed)

    def note(self, view: EpisodeView) -> str | None:
        """What to say of a judgement: that the policies know nothing of the episode's task, or nothing."""
        if view.task and view.task not in self.tasks[view.group]:
            return f"against every task: this one has fewer than {MIN_EPISODES} reference episodes"
        return None

    def arrays(self) -> dict[str, np.ndarray]:
        """What a fit keeps as arrays."""
        return {
            f"policy.{number}.{name}": value
            for number, group in enumerate(self.views)
            for name, value in self.weights.get(group, {}).items()
        }

    def meta(self) -> dict[str, Any]:
        """What a fit keeps as plain JSON, under one key."""
        return {
            "clones": {
                "seed": self.seed,
                "members": self.members,
                "horizon": self.horizon,
                "views": {group: view.as_dict() for group, view in self.views.items()},
                "tasks": {group: list(tasks) for group, tasks in self.tasks.items()},
                "cuts": {group: {task: list(c) for task, c in found.items()} for group, found in self.cuts.items()},
                "trained": {group: dict(ended) for group, ended in self.trained.items()},
            }
        }

    @staticmethod
    def load(fit: Fit) -> Clones:
        """The policies that ``arrays`` and ``meta`` of a fit hold."""
        facts = fit.meta["clones"]
        views = {group: View(**view) for group, view in facts["views"].items()}
        weights: dict[str, dict[str, np.ndarray]] = {}
        for number, group in enumerate(views):
            prefix = f"policy.{number}."
            own = {name.removeprefix(prefix): x for name, x in fit.arrays.items() if name.startswith(prefix)}
            if own:
                weights[group] = own
        return Clones(
            facts["seed"], facts["members"], facts["horizon"], views, facts["tasks"], facts["cuts"], weights,
            facts["trained"],
        )  # fmt: skip


def _key(seed: int, view: EpisodeView) -> int:
    return key_of(seed, view.motion_hash, "fold")


def _within(views: Sequence[EpisodeView], seed: int) -> list[EpisodeView]:
    """Those with the least numbers, ``STEPS`` steps of them, and never fewer than one."""
    ordered = sorted(views, key=lambda view: _key(seed, view))
    before = np.cumsum([0, *(len(view.state) for view in ordered)])[:-1]
    return [view for view, steps in zip(ordered, before, strict=True) if steps < STEPS]


def _cuts(keys: Sequence[int], folds: int) -> list[int]:
    """The numbers at which ``keys`` part into ``folds`` of like size."""
    ordered = sorted(keys)
    return [ordered[len(ordered) * fold // folds] for fold in range(1, folds)]


def _fold(cuts: Mapping[str, Sequence[int]], view: EpisodeView, seed: int) -> int:
    key = _key(seed, view)
    return sum(key >= cut for cut in cuts[view.task if view.task in cuts else ""])


def _parts(fold: np.ndarray, keys: Sequence[int], folds: int, members: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [folds * members, E] twice: the episodes that each policy learns from, and those that tell it to stop."""
    learns = np.zeros((folds * members, len(fold)), bool)
    stops = np.zeros_like(learns)
    for number in range(folds * members):
        mine = np.flatnonzero((fold != number // members) if folds > 1 else np.ones(len(fold), bool))
        learns[number, mine] = True
        if len(mine) >= 3:
            apart = min(_HELD_OUT, len(mine))
            rank = np.argsort(np.argsort([keys[at] for at in mine]))
            held = mine[rank % apart == number % members % apart]
            learns[number, held], stops[number, held] = False, True
    return learns, stops
