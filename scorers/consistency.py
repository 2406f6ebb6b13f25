"""Consistency: did the recorded actions cause the recorded motion?

How motion responds to action is learned per (embodiment, control mode), cross-fitted by episode and robust against up
to half of the episodes being wrong (:mod:`scorers.dynamics`, :mod:`scorers.kernels.response`). An episode whose actions
are late, swapped, negated, in another unit or of another episode then no longer calls for the motion that is there; one
that was cut together or teleports moves as no action could make it. Contact resists everybody: what others of the task
show in the same places is what an episode is held against (:mod:`scorers.places`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from data_engine.conventions.roles import parts
from data_engine.model import ACTION
from data_engine.reference import RawEpisode, Reference, episodes
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Span, Spec
from data_engine.view import fit_views
from scorers.dynamics import MIN_EPISODES, MIN_ROWS, Dynamics, learn
from scorers.kernels.response import Response, Rows, concordance, respond
from scorers.places import Places
from scorers.pool import worst_spans
from scorers.suspicions import LAGS, what_explains

__all__ = ["Consistency"]

_REFERENCE_STEPS = 20_000
_SUSPECT = 0.6  # of the usual agreement lost, from where on a reason is looked for
_WINDOW = 9  # steps that agree or contradict together
_SEAM = 0.5  # share of the moving coordinates that jump in one step where two recordings were joined
_WITNESS = 0.5  # of the usual agreement: what is lost is never told in units of less
_BETTER = 0.05  # of the error: what another lag has to explain more


class Consistency(Scorer):
    """How far an episode's actions fail to account for its motion, against what is usual in its group.

    Metrics: ``inconsistency``, the headline: the share of its usual agreement that the worst coordinate which actions
    drive has lost (0 usual or better, 1 nothing to do with each other, 2 opposite), or 1 - 1 / ``jump`` where that is
    more; where other episodes of its task (three at least) show less in the same places, that is the usual.
    ``agreement``: the worst coordinate's concordance of the motion that its past does not explain with what the actions
    call for. ``correlation``: the same without regard to size. ``gain``: the size of the motion over what the actions
    call for, all coordinates together. ``lag_steps``, ``lag_ms``: by how much actions come later than usual in the
    group (best lag by cross-correlation within 12 steps; 0 unless another explains a twentieth of the error).
    ``jump``: the largest unexplained motion of what actions drive, over the usual. ``length``, the baseline to beat.

    Reasons of spans: ``lagged``, ``reversed``, ``negated``, ``swapped``, ``rescaled``, ``foreign_action`` (of the whole
    episode), ``contradicted`` and ``gripper`` (steps where motion and call differ), ``teleport`` and ``joined`` (the
    step that is reached by a jump). ``step_values``: root mean square of the unexplained motion over the driven
    coordinates, each in units of its usual one; NaN where a step cannot be predicted.

    Undefined where fewer than 8 steps can be predicted, and ``unobservable`` where no state coordinate answers actions,
    in the group or in this episode.
    """

    spec: ClassVar[Spec] = Spec(
        name="consistency",
        version="3",
        level="episode",
        metrics=(
            Metric("inconsistency", "share of usual agreement lost", "lower"),
            Metric("agreement", "concordance", "higher"),
            Metric("correlation", "correlation", "higher"),
            Metric("gain", "ratio", "neither"),
            Metric("lag_steps", "steps", "neither"),
            Metric("lag_ms", "ms", "neither"),
            Metric("jump", "usual jumps", "lower"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Learn each group's response, and what is usual in it."""
        reference = Reference(batches, seed=seed, budget=_REFERENCE_STEPS)
        views = fit_views(reference)
        arrays: dict[str, np.ndarray] = {}
        kept: dict[str, dict[str, Any]] = {}
        for number, (group, found) in enumerate(reference.groups.items()):
            dynamics = learn(found, views[group], seed, device)
            if dynamics is None:
                continue
            kept[group] = {"number": number, "view": dynamics.view.as_dict(), "tasks": []}
            arrays |= {f"{number}.{name}": values for name, values in dynamics.arrays().items()}
            for task, places in _places(found, dynamics, seed, device).items():
                arrays |= {f"{number}.{len(kept[group]['tasks'])}.{n}": x for n, x in places.arrays().items()}
                kept[group]["tasks"].append(task)
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta={"groups": kept},
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode, by the model that has not seen it."""
        groups = fit.meta["groups"]
        known = {group: _load(fit, found["number"], found["view"]) for group, found in groups.items()}
        places = {
            (group, task): Places.load(_named(fit, f"{found['number']}.{i}."))
            for group, found in groups.items()
            for i, task in enumerate(found["tasks"])
        }
        return [
            self._one(raw, known.get(raw.group), places.get((raw.group, raw.task)), device) for raw in episodes(batch)
        ]

    def _one(self, raw: RawEpisode, dynamics: Dynamics | None, places: Places | None, device: str) -> list[ScoreRow]:
        if raw.problem is not None or dynamics is None:
            return self._undefined(raw, raw.problem or f"fewer than {MIN_EPISODES} reference episodes of {raw.group}")
        course = dynamics.course(raw)
        found = dynamics.rows(course)
        if len(found) < MIN_ROWS:
            return self._undefined(raw, f"only {len(found)} steps can be predicted, of {MIN_ROWS} at least")
        response = respond(found, dynamics.model(raw.content_hash), device)
        # a motion that is no surprise is no jump, however wild the call
        sudden = np.minimum(np.abs(response.left), np.abs(response.surprise))
        jumps = sudden / np.where(_own(dynamics) & (dynamics.jump > 0), dynamics.jump, np.inf)
        jump = float(jumps.max(initial=0.0))
        by_jump = max(0.0, 1 - 1 / max(jump, 1.0))
        weight = dynamics.weight(response)
        seen = weight > 0
        n = len(raw.state)
        last = [ScoreRow("jump", jump), ScoreRow("length", float(n))]
        if not seen.any():
            what = "in this group" if not dynamics.driven.any() else "in this episode"
            reason = f"unobservable: no state coordinate answers the actions {what}"
            names = ("agreement", "correlation", "gain", "lag_steps", "lag_ms")
            spans = tuple(_jumps(found, jumps, dynamics, n)) if by_jump else ()
            first = ScoreRow("inconsistency", None, "undefined", reason)
            if by_jump >= _SUSPECT:
                first = ScoreRow("inconsistency", by_jump, reason=_words(spans), spans=spans)
            return [first, *(ScoreRow(name, None, "undefined", reason) for name in names), *last]
        agreement = concordance(response.surprise, response.call)
        usual, unit = dynamics.agreement
        there = places.expected(raw, found, response, dynamics.view, device) if places is not None else None
        if there is not None:
            there = np.minimum(there, usual)
            unit = unit * np.clip(there / np.where(usual > 0, usual, 1.0), _WITNESS, 1.0)
            usual = there
        lost = np.where(seen, (usual - agreement) / np.where(unit > 0, unit, 1.0), -np.inf)
        worst = int(lost.argmax())
        value = max(float(lost[worst]), by_jump, 0.0)
        step_values = np.full(n, np.nan)
        step_values[found.step] = np.sqrt((response.left**2 * weight).sum(axis=1) / seen.sum())
        spans, words = (), None
        if value >= _SUSPECT:
            spans, words = self._evidence(raw, dynamics, found, response, lost, jumps, weight, device)
        lag = _lag(found, response, weight)
        size = float((weight * response.call**2).sum())
        gain = float((weight * response.surprise * response.call).sum()) / size if size > 0 else None
        return [
            ScoreRow("inconsistency", value, reason=words, step_values=step_values.astype(np.float32), spans=spans),
            ScoreRow("agreement", float(agreement[worst]), reason=_name(raw, dynamics, worst)),
            ScoreRow("correlation", _correlation(response, worst), reason=_name(raw, dynamics, worst)),
            ScoreRow("gain", gain) if gain is not None else ScoreRow("gain", None, "undefined", "no action calls"),
            ScoreRow("lag_steps", float(lag)),
            ScoreRow("lag_ms", 1000 * lag * course.period),
            *last,
        ]

    def _evidence(
        self,
        raw: RawEpisode,
        dynamics: Dynamics,
        found: Rows,
        response: Response,
        lost: np.ndarray,
        jumps: np.ndarray,
        weight: np.ndarray,
        device: str,
    ) -> tuple[tuple[Span, ...], str]:
        """Spans with reason codes, and what they say in words."""
        n = len(raw.state)
        spans = list(_jumps(found, jumps, dynamics, n))
        words = [_words(spans)] if spans else []
        if lost.max() >= _SUSPECT and not spans:
            suspicion = what_explains(raw, dynamics, weight, device)
            reason, said = suspicion.reason, suspicion.words
            bad = lost >= _SUSPECT
            if reason in ("contradicted", "foreign_action") and set(dynamics.command[bad]) <= _grippers(raw):
                reason, said = "gripper", "the gripper does not do what it is told"
            if reason in ("contradicted", "gripper"):
                steps = _contradicted(found, response, np.where(bad, weight, 0.0), n)
                spans += worst_spans(np.nan_to_num(steps), np.nan_to_num(steps, nan=-1.0) > 0, reason)
            else:
                spans.append(Span(0, n, reason))
            words.append(f"{reason}: {said}")
        return tuple(spans), "; ".join(words)

    def _undefined(self, raw: RawEpisode, reason: str) -> list[ScoreRow]:
        named = [metric.name for metric in self.spec.metrics if metric.name != "length"]
        return [
            *(ScoreRow(name, None, "undefined", reason) for name in named),
            ScoreRow("length", float(len(raw.state))),
        ]


def _load(fit: Fit, number: int, view: dict[str, object]) -> Dynamics:
    return Dynamics.load(view, _named(fit, f"{number}."))


def _named(fit: Fit, prefix: str) -> dict[str, np.ndarray]:
    """The arrays of ``fit`` whose names begin so, by what follows."""
    return {name[len(prefix) :]: values for name, values in fit.arrays.items() if name.startswith(prefix)}


def _places(found: Sequence[RawEpisode], dynamics: Dynamics, seed: int, device: str) -> dict[str, Places]:
    """What the episodes of each task show of a group's dynamics where they are."""
    seen: dict[str, list[tuple[RawEpisode, Rows, Response]]] = {}
    for raw in found:
        rows = dynamics.rows(dynamics.course(raw))
        if len(rows) >= MIN_ROWS:
            response = respond(rows, dynamics.model(raw.content_hash), device)
            seen.setdefault(raw.task, []).append((raw, rows, response))
    return {task: Places.learn(some, dynamics.view, seed) for task, some in sorted(seen.items())}


def _lag(found: Rows, response: Response, weight: np.ndarray) -> int:
    """Steps that the actions come late by: where the drive, moved, leaves the least of the motion unexplained.

    All lags are held against the same steps, those that have every one of them.
    """
    some = weight > 0
    first, last = int(found.step[0]), int(found.step[-1])
    drive = np.full((last - first + 1 + 2 * LAGS, int(some.sum())), np.nan)
    drive[found.step - first + LAGS] = response.drive[:, some]
    rest = (response.left + response.drive)[:, some]
    at = found.step - first + LAGS
    moved = {lag: drive[at + lag] for lag in range(-LAGS, LAGS + 1)}
    known = np.all([np.isfinite(x).all(axis=1) for x in moved.values()], axis=0)
    if known.sum() < MIN_ROWS:
        return 0
    error = {lag: float((((rest - x) ** 2)[known] @ weight[some]).sum()) for lag, x in moved.items()}
    best = min(error, key=lambda lag: (error[lag], abs(lag)))
    return best if error[best] < (1 - _BETTER) * error[0] else 0


def _correlation(response: Response, coordinate: int) -> float:
    surprise, call = response.surprise[:, coordinate], response.call[:, coordinate]
    size = float(np.sqrt((surprise @ surprise) * (call @ call)))
    return float(surprise @ call) / size if size > 0 else 0.0


def _own(dynamics: Dynamics) -> np.ndarray:
    """bool [ds]: the coordinates whose jumps count, those that actions drive; all where they drive none.

    What the robot meets jumps on contact. Where few of a pool ever touch it that is unusual, and successes would be the
    ones that look torn.
    """
    return dynamics.driven if dynamics.driven.any() else np.ones_like(dynamics.driven)


def _jumps(found: Rows, jumps: np.ndarray, dynamics: Dynamics, n: int) -> Iterator[Span]:
    """The steps reached by a motion more than 1 / (1 - ``_SUSPECT``) times as large as usual jumps are."""
    moving = max(int((_own(dynamics) & (dynamics.jump > 0)).sum()), 1)
    far = jumps > 1 / (1 - _SUSPECT)
    steps = found.step[far.any(axis=1)]
    for step, share in zip(steps, far[far.any(axis=1)].sum(axis=1) / moving, strict=True):
        if step - 1 in steps or step - 2 in steps:  # the swing back of the prediction, not another jump
            continue
        yield Span(int(step) + 1, min(int(step) + 2, n), "joined" if share > _SEAM else "teleport")


def _words(spans: Iterable[Span]) -> str:
    return ", ".join(f"{span.reason} at step {span.start}" for span in list(spans)[:5])


def _contradicted(found: Rows, response: Response, weight: np.ndarray, n: int) -> np.ndarray:
    """By how much motion and call differ around each step, less what agrees [n]: positive where they contradict."""
    against = (weight * (response.left**2 - response.surprise**2)).sum(axis=1)
    smooth = np.convolve(against, np.ones(_WINDOW) / _WINDOW, mode="same")
    steps = np.full(n, np.nan)
    steps[found.step] = smooth
    return steps


def _grippers(raw: RawEpisode) -> set[int]:
    """The action dimensions whose names say gripper."""
    feature = raw.dataset.feature(ACTION)
    found = parts(feature) if feature is not None else ()
    return {dim for part in found if part.role == "gripper" for dim in part.components}


def _name(raw: RawEpisode, dynamics: Dynamics, coordinate: int) -> str:
    """Words for the worst coordinate."""
    return f"the worst of {int(dynamics.driven.sum())} driven coordinates is number {coordinate} of the view"
