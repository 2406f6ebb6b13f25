"""A reward for every step, learned from preferences between pieces of behaviour, with how sure it is.

Christiano et al., "Deep Reinforcement Learning from Human Preferences" (2017), and for judgements of a model Wang et
al., "RL-VLM-F" (2024): an ensemble of rewards fitted to comparisons under the Bradley-Terry model, then every recorded
step is labelled anew. What it was told to prefer is all it knows: its accuracy on pairs of episodes that it did not see
stands beside every number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.asking import instruction, steps_of
from data_engine.labelling import Annotation, Labeller, Labels, LabelSpec
from data_engine.model import ACTION, STATE
from data_engine.preferences import Comparison, Item, Preference, comparisons
from data_engine.reference import RawEpisode, Reference, key_of
from data_engine.reference import episodes as raw_episodes
from data_engine.scoring import Clips, EpisodeBatch, Fit, Metric, Needs, Resources, ScoreRow
from data_engine.view import View, fit_views
from scorers.kernels.preference import agreement, item_rewards, train, weigh
from scorers.pool import REFERENCE_STEPS

__all__ = ["PreferenceReward"]

_ITEM_STEPS = 8  # of an item that training looks at, evenly spread
_FOLDS = 4
_FOLD_MEMBERS = 2
_LEAST_PAIRS = 8
_VELOCITY = 0.25  # of a velocity beside a position
_END = 0.1  # of an episode
_Place = tuple[str, str]  # group and task: what one reward is of


class PreferenceReward(Labeller):
    """The mean of ``members`` rewards, in standard deviations over the steps they were learned from.

    ``collection``: the preferences that it learns from. It sees the positions of the view and, a quarter as large, its
    velocities, as what is worth having is mostly a place; with ``actions`` the action as well; or the vectors of the
    embedding space ``space`` (of ``camera``, where it has several). One reward for each task and kind of robot.
    ``flips``: the share of answers that are assumed to be wrong. ``contradicted``: whether pairs count whose verdict a
    second judge denies.

    Writes a ``reward`` and a ``reward_uncertainty`` (the members' standard deviation) of every step. Metrics:
    ``mean_reward``, ``final_reward`` (last tenth of the steps), ``uncertainty`` (mean), ``held_out_accuracy``: of pairs
    between episodes that were left out of the fit in turn, the share whose answer it foresees; a tenth of wrong answers
    bounds that by 0.9.
    """

    collection: str = "default"
    space: str | None = None
    camera: str | None = None
    actions: bool = False
    members: int = Field(default=5, ge=2, le=32)
    hidden: int = Field(default=64, ge=1, le=1024)
    iterations: int = Field(default=400, ge=1, le=100_000)
    flips: float = Field(default=0.1, ge=0, lt=0.5)
    contradicted: bool = False

    spec: ClassVar[LabelSpec] = LabelSpec(
        name="preference_reward",
        version="3",
        level="step",
        metrics=(
            Metric("mean_reward", "standard deviations", "higher"),
            Metric("final_reward", "standard deviations", "higher"),
            Metric("uncertainty", "standard deviations", "lower"),
            Metric("held_out_accuracy", "share", "higher"),
        ),
        kinds=("reward", "reward_uncertainty"),
        resources=Resources(cpus=1),
    )

    @property
    def needs(self) -> Needs:
        """The preferences, and state and action or a space."""
        return Needs(columns=(STATE, ACTION), spaces=(self.space,) if self.space else (), preferences=self.collection)

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Learn a reward for each task and kind of robot that enough pairs are of."""
        gathered = _Gathered(self)
        reference = Reference(gathered.watch(batches), seed=seed, budget=REFERENCE_STEPS)
        views = {} if self.space else fit_views(reference)
        places: dict[_Place, list[Comparison]] = defaultdict(list)
        apart = 0
        for pair in gathered.pairs():
            where = {gathered.places.get(item) for item in (pair.first, pair.second)}
            if len(where) == 1 and (place := where.pop()) is not None:
                places[place[0], pair.task or place[1]].append(pair)
            else:
                apart += 1
        arrays: dict[str, np.ndarray] = {}
        nets: list[dict[str, Any]] = []
        for place, pairs in sorted(places.items()):
            facts: dict[str, Any] = {"group": place[0], "task": place[1], "pairs": len(pairs)}
            if len(pairs) >= _LEAST_PAIRS:
                found = gathered.features(pairs, views)
                learned, told = self._learn(found, pairs, self._emphasis(views.get(place[0])), seed, device)
                arrays |= {f"{len(nets)}.{name}": array for name, array in learned.items()}
                facts |= told
            nets.append(facts)
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta={"nets": nets, "views": {name: view.as_dict() for name, view in views.items()},
                  "left_out": {**gathered.left_out, "not among the episodes, or of unlike robots": apart}},
        )  # fmt: skip

    def label(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Labels]:
        """The reward of every step of every episode."""
        views = {name: View(**found) for name, found in fit.meta["views"].items()}
        nets = {(net["group"], net["task"]): (place, net) for place, net in enumerate(fit.meta["nets"])}
        found = []
        for index, (task, raw, span) in enumerate(zip(_tasks(batch), raw_episodes(batch), batch, strict=True)):
            n = span.stop - span.start
            group = self.space or raw.group
            place, net = nets.get((group, task), (0, {}))
            if "accuracy" not in net:
                held = f"{net['pairs']} preferences" if net else "no preferences"
                found.append(Labels.undefined(self.spec.metrics, f"{held} for {task or 'no task'!r} of {group}"))
                continue
            features, valid = self._features(batch, index, raw, views, np.arange(n))
            if not valid.any():
                found.append(Labels.undefined(self.spec.metrics, raw.problem or "no step that it can see"))
                continue
            weights = {name.partition(".")[2]: x for name, x in fit.arrays.items() if name.startswith(f"{place}.")}
            found.append(self._labels(weigh(weights, features, device), valid, net))
        return found

    def _labels(self, rewards: np.ndarray, valid: np.ndarray, net: Mapping[str, Any]) -> Labels:
        steps = np.full((2, len(valid)), np.nan)
        steps[:, valid] = rewards.mean(axis=0), rewards.std(axis=0)
        reward, spread = steps
        accuracy, count = net["accuracy"], net["held_out"]
        last = reward[-max(round(_END * len(valid)), 1) :]
        final = float(np.nanmean(last)) if np.isfinite(last).any() else None
        note = f"learned from {net['pairs']} preferences"
        said = f"{note}; of {count} held out it foresees {accuracy:.0%}" if accuracy is not None else note
        held = (
            ScoreRow("held_out_accuracy", accuracy, reason=f"{count} pairs of episodes left out of the fit")
            if accuracy is not None
            else ScoreRow("held_out_accuracy", None, "undefined", "too few pairs of unlike episodes to hold any out")
        )
        end = len(valid)
        return Labels(
            annotations=(
                Annotation("reward", 0, end, value=float(np.nanmean(reward)), step_values=reward.astype(np.float32),
                           confidence=accuracy, reason=said),
                Annotation("reward_uncertainty", 0, end, value=float(np.nanmean(spread)),
                           step_values=spread.astype(np.float32), confidence=accuracy, reason=said),
            ),
            scores=(
                ScoreRow("mean_reward", float(np.nanmean(reward)), reason=said),
                ScoreRow("final_reward", final, "ok" if final is not None else "undefined",
                         said if final is not None else "the last tenth has no step that it can see"),
                ScoreRow("uncertainty", float(np.nanmean(spread)), reason=said),
                held,
            ),
        )  # fmt: skip

    def _learn(
        self,
        found: tuple[np.ndarray, np.ndarray, Sequence[Item]],
        pairs: Sequence[Comparison],
        emphasis: np.ndarray | None,
        seed: int,
        device: str,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The ensemble, and beside it, to be held against the answers, one on each three quarters of the episodes.

        Members start apart and see the same pairs: drawing pairs with repeats for each was measured to cost accuracy.
        """
        steps, items, order = found
        at = {item: row for row, item in enumerate(order)}
        rows = np.array([[at[pair.first], at[pair.second]] for pair in pairs])
        target = np.array([pair.probability for pair in pairs])
        weight = np.array([pair.weight for pair in pairs])
        seen = (items >= 0).any(axis=1)[rows].all(axis=1)
        every = np.ones((self.members, len(pairs)), bool)
        fold = np.array([key_of(seed, "fold", item.content_hash) % _FOLDS for item in order])[rows]
        folds = [k for k in range(_FOLDS) if (seen & (fold != k).all(axis=1)).sum() >= _LEAST_PAIRS]
        apart = [np.repeat((fold != k).all(axis=1)[None], _FOLD_MEMBERS, axis=0) for k in folds]
        counts = np.concatenate([every, *apart]) * weight * seen
        if not (counts > 0).any(axis=1).all():
            return {}, {"reason": "no pair of steps that it can see"}
        weights = train(
            steps, items, rows, target, counts,
            seed=seed, emphasis=emphasis, hidden=self.hidden, iterations=self.iterations, flips=self.flips,
            device=device,
        )  # fmt: skip
        rewards = item_rewards(weigh(weights, steps, device), items)
        right, held = 0.0, 0
        for number, k in enumerate(folds):
            first = self.members + number * _FOLD_MEMBERS
            mine = seen & (fold == k).all(axis=1) & (target != 0.5)
            share = agreement(rewards[first : first + _FOLD_MEMBERS].mean(axis=0), rows[mine], target[mine])
            right, held = right + (share or 0.0) * int(mine.sum()), held + int(mine.sum())
        kept = {name: x if name in ("mean", "deviation") else x[: self.members] for name, x in weights.items()}
        return kept, {"accuracy": right / held if held else None, "held_out": held, "items": len(order)}

    def _emphasis(self, view: View | None) -> np.ndarray | None:
        """How large each feature is, None for alike: vectors of a space, and episodes that have no view."""
        if self.space or view is None:
            return None
        sizes = [(len(view.position), 1.0), (len(view.velocity), _VELOCITY)]
        sizes += [(len(view.action), 1.0)] if self.actions else []
        return np.concatenate([np.full(count, size) for count, size in sizes])

    def _features(
        self, batch: EpisodeBatch, index: int, raw: RawEpisode, views: Mapping[str, View], steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a reward sees of ``steps``: float32 [m, d], and bool [len(steps)] which m of them it sees."""
        if self.space:
            clips = batch.spaces[self.space][index]
            return _nearest(clips, self.camera, steps)
        return self._of_view(raw, views)

    def _of_view(self, raw: RawEpisode, views: Mapping[str, View]) -> tuple[np.ndarray, np.ndarray]:
        if raw.problem is not None or raw.group not in views or not raw.finite.any():
            return np.empty((0, 0), np.float32), np.zeros(len(raw.state), bool)
        measured = views[raw.group].measure(raw)
        parts = (measured.state, measured.action) if self.actions else (measured.state,)
        return np.concatenate(parts, axis=1), measured.valid


class _Gathered:
    """The steps of the items that preferences are of, taken while episodes stream past."""

    def __init__(self, labeller: PreferenceReward) -> None:
        self.labeller = labeller
        self.places: dict[Item, _Place] = {}
        self.left_out: dict[str, int] = {}
        self._pairs: list[Comparison] | None = None
        self._wanted: dict[str, list[Item]] = defaultdict(list)
        self._raw: dict[Item, RawEpisode] = {}
        self._vectors: dict[Item, np.ndarray] = {}

    def watch(self, batches: Iterable[EpisodeBatch]) -> Iterator[EpisodeBatch]:
        """``batches``, looked at on the way."""
        for batch in batches:
            if self._pairs is None:
                self._read(batch)
            self._take(batch)
            yield batch

    def pairs(self) -> list[Comparison]:
        """What the preferences come to, pair by pair. An item is named by its content alone."""
        return self._pairs or []

    def _read(self, batch: EpisodeBatch) -> None:
        told = [] if batch.preferences is None else batch.preferences.to_pylist()
        rows = sorted(told, key=lambda row: row["preference_id"])
        denied = {row["reviews"] for row in rows if row["contradicts"]}
        own = [row for row in rows if row["reviews"] is None]
        kept = [row for row in own if self.labeller.contradicted or row["preference_id"] not in denied]
        found = [comparisons(Preference.of_row(row)) for row in kept]
        self.left_out = {"contradicted": len(own) - len(kept), "undecided": sum(not pairs for pairs in found)}
        self._pairs = [
            replace(pair, first=_bare(pair.first), second=_bare(pair.second)) for pairs in found for pair in pairs
        ]
        for item in dict.fromkeys(item for pair in self._pairs for item in (pair.first, pair.second)):
            self._wanted[item.content_hash].append(item)

    def _take(self, batch: EpisodeBatch) -> None:
        for index, (raw, task) in enumerate(zip(raw_episodes(batch), _tasks(batch), strict=True)):
            for item in self._wanted.get(raw.content_hash, ()):
                self.places[item] = (self.labeller.space or raw.group, task)
                steps = np.array(steps_of(item.start, item.stop or 0, _ITEM_STEPS))
                if self.labeller.space:
                    clips = batch.spaces[self.labeller.space][index]
                    self._vectors[item] = _nearest(clips, self.labeller.camera, steps)[0]
                elif raw.problem is None:
                    pieces = np.stack([np.maximum(steps - 1, 0), steps], axis=1).reshape(-1)  # for the velocity
                    self._raw[item] = replace(raw, state=raw.state[pieces], action=raw.action[pieces], time=None)

    def features(
        self, pairs: Sequence[Comparison], views: Mapping[str, View]
    ) -> tuple[np.ndarray, np.ndarray, Sequence[Item]]:
        """Steps float32 [n, d], the rows of each item int64 [I, M] (-1 padded), and the items in that order."""
        order = sorted({item for pair in pairs for item in (pair.first, pair.second)}, key=repr)
        blocks: list[np.ndarray] = []
        for item in order:
            if self.labeller.space:
                blocks.append(self._vectors[item])
                continue
            if item not in self._raw:
                blocks.append(np.empty((0, 0), np.float32))
                continue
            features, valid = self.labeller._of_view(self._raw[item], views)
            own = (np.arange(len(valid)) % 2 == 1)[valid] if len(features) else np.zeros(0, bool)
            blocks.append(features[own])
        width = max((block.shape[1] for block in blocks if len(block)), default=0)
        items = np.full((len(order), max((len(block) for block in blocks), default=1)), -1, np.int64)
        at = 0
        for row, block in enumerate(blocks):
            items[row, : len(block)] = np.arange(at, at + len(block))
            at += len(block)
        kept = [block for block in blocks if len(block)]
        steps = np.concatenate(kept) if kept else np.zeros((1, width), np.float32)
        return steps.astype(np.float32), items, order


def _tasks(batch: EpisodeBatch) -> list[str]:
    """What the robot was told in each episode, empty where it was told nothing."""
    told = [name for name in ("task", "language") if name in batch.episodes.column_names]
    return [instruction(row) or "" for row in batch.episodes.select(told).to_pylist()]


def _bare(item: Item) -> Item:
    """What an item shows, whatever its episode is called and through which camera it was seen."""
    return Item("", item.start, item.stop, None, item.content_hash)


def _nearest(clips: Clips, camera: str | None, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vector float32 [m, d] nearest each of ``steps``, and bool [len(steps)] which have one: all, or none.

    Of several cameras, and none named, it is the first by name.
    """
    named = sorted({name for name in clips.cameras if name is not None})
    mine = clips.of(camera or (named[0] if named else None))
    if not len(mine):
        return np.empty((0, 0), np.float32), np.zeros(len(steps), bool)
    middle = (mine.starts + mine.stops - 1) / 2
    nearest = np.abs(middle[None] - steps[:, None]).argmin(axis=1)
    return np.asarray(mine.vectors[nearest], np.float32), np.ones(len(steps), bool)
