"""Consistency: did the recorded actions cause the recorded motion?

How motion responds to action is learned per (embodiment, control mode), cross-fitted by episode and robust against up
to half of the episodes being wrong (:mod:`scorers.dynamics`, :mod:`scorers.kernels.response`). An episode whose actions
are late, swapped, negated, in another unit or of another episode then no longer calls for the motion that is there; one
that was cut together or teleports moves as no action could make it. What a held command does, a gripper's say, is asked
half a second later, where that tells far more. Contact resists everybody: what others of the task show in the same
places is what an episode is held against (:mod:`scorers.places`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from data_engine.conventions.roles import parts
from data_engine.model import ACTION
from data_engine.reference import RawEpisode, Reference, episodes
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Span, Spec
from data_engine.view import fit_views
from scorers.dynamics import MIN_EPISODES, MIN_ROWS, Course, Dynamics, learn, learn_held
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
_SLOW = 0.5  # of what one step leaves unexplained: where half a second leaves no more, that is where it is judged


@dataclass(frozen=True)
class _Known:
    """What is known of a group: its ``dynamics`` and, by task, its ``places``."""

    dynamics: Dynamics
    places: dict[str, Places]

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Everything, by names that begin with ``prefix``; tasks by their number."""
        found = {f"{prefix}{name}": values for name, values in self.dynamics.arrays().items()}
        for i, places in enumerate(self.places.values()):
            found |= {f"{prefix}{i}.{name}": values for name, values in places.arrays().items()}
        return found

    @staticmethod
    def load(fit: Fit, prefix: str, view: dict[str, object], tasks: Sequence[str]) -> _Known:
        """What :meth:`arrays` kept."""
        places = {task: Places.load(_named(fit, f"{prefix}{i}.")) for i, task in enumerate(tasks)}
        return _Known(Dynamics.load(view, _named(fit, prefix)), places)


@dataclass(frozen=True)
class _Told:
    """What one episode shows of its group's dynamics: ``lost`` and ``agreement`` [ds], ``weight`` [ds] of what is seen
    of it, -inf and 0 where nothing is."""

    dynamics: Dynamics
    rows: Rows
    response: Response
    weight: np.ndarray
    agreement: np.ndarray
    lost: np.ndarray


class Consistency(Scorer):
    """How far an episode's actions fail to account for its motion, against what is usual in its group.

    Metrics: ``inconsistency``, the headline: the share of its usual agreement that the worst coordinate which actions
    drive has lost (0 usual or better, 1 nothing to do with each other, 2 opposite), or 1 - 1 / ``jump`` where that is
    more; where other episodes of its task (three at least) show less in the same places, that is the usual.
    ``agreement``: the worst coordinate's concordance of the motion that its past does not explain with what the actions
    call for. ``correlation``: the same without regard to size. ``gain``: the size of the motion over what the actions
    call for, all coordinates together. ``lag_steps``, ``lag_ms``: by how much actions come later than usual in the
    group (best lag by cross-correlation within 12 steps; 0 unless another explains a twentieth of the error).
    ``jump``: the largest leap of any coordinate, a motion in one step that nothing explains and that is unlike those
    before and after, over the usual leap and a twentieth of the range. ``length``, the baseline to beat.

    Reasons of spans: ``lagged``, ``reversed``, ``negated``, ``swapped``, ``rescaled``, ``foreign_action`` (of the whole
    episode), ``contradicted`` and ``gripper`` (steps where motion and call differ), ``teleport`` and ``joined`` (the
    step that is reached by a jump). ``step_values``: root mean square of the unexplained motion over the driven
    coordinates, each in units of its usual one; NaN where a step cannot be predicted.

    Undefined where fewer than 8 steps can be predicted, and ``unobservable`` where no state coordinate answers actions,
    in the group or in this episode.
    """

    spec: ClassVar[Spec] = Spec(
        name="consistency",
        version="5",
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
            known = _Known(dynamics, _places(found, dynamics, seed, device))
            arrays |= known.arrays(f"{number}.")
            kept[group] = {"number": number, "view": dynamics.view.as_dict(), "tasks": list(known.places)}
            held = _held(learn_held(found, views[group], seed, device), dynamics)
            if held is not None:
                late = _Known(held, _places(found, held, seed, device))
                arrays |= late.arrays(f"{number}.held.")
                kept[group]["held"] = list(late.places)
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta={"groups": kept},
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode, by the model that has not seen it."""
        known: dict[str, tuple[_Known, _Known | None]] = {}
        for group, kept in fit.meta["groups"].items():
            prefix, view = f"{kept['number']}.", kept["view"]
            held = _Known.load(fit, f"{prefix}held.", view, kept["held"]) if "held" in kept else None
            known[group] = _Known.load(fit, prefix, view, kept["tasks"]), held
        return [self._one(raw, *known.get(raw.group, (None, None)), device) for raw in episodes(batch)]

    def _one(self, raw: RawEpisode, known: _Known | None, held: _Known | None, device: str) -> list[ScoreRow]:
        if raw.problem is not None or known is None:
            return self._undefined(raw, raw.problem or _few(raw.group))
        dynamics = known.dynamics
        course = dynamics.course(raw)
        found = dynamics.rows(course)
        if len(found) < MIN_ROWS:
            return self._undefined(raw, f"only {len(found)} steps can be predicted, of {MIN_ROWS} at least")
        late = _told(raw, course, held, device) if held is not None else None
        told = _told(raw, course, known, device, None if late is None else late.dynamics.driven)
        assert told is not None  # as there are rows enough
        response = told.response
        jumps = dynamics.jumps(course, found, response)
        jump = float(jumps.max(initial=0.0))
        by_jump = max(0.0, 1 - 1 / max(jump, 1.0))
        n = len(raw.state)
        last = [ScoreRow("jump", jump), ScoreRow("length", float(n))]
        seen = [one for one in (told, late) if one is not None and (one.weight > 0).any()]
        if not seen:
            what = "in this group" if held is None and not dynamics.driven.any() else "in this episode"
            reason = f"unobservable: no state coordinate answers the actions {what}"
            names = ("agreement", "correlation", "gain", "lag_steps", "lag_ms")
            spans = tuple(_jumps(found, jumps, dynamics, n)) if by_jump else ()
            first = ScoreRow("inconsistency", None, "undefined", reason)
            if by_jump >= _SUSPECT:
                first = ScoreRow("inconsistency", by_jump, reason=_words(spans), spans=spans)
            return [first, *(ScoreRow(name, None, "undefined", reason) for name in names), *last]
        worst = max(seen, key=lambda one: float(one.lost.max()))
        coordinate = int(worst.lost.argmax())
        value = max(float(worst.lost.max()), by_jump, 0.0)
        step_values = np.full(n, np.nan)
        step_values[seen[0].rows.step] = np.sqrt(
            (seen[0].response.left ** 2 * seen[0].weight).sum(axis=1) / (seen[0].weight > 0).sum()
        )
        spans, words = (), None
        if value >= _SUSPECT:
            spans, words = self._evidence(raw, told, late, jumps, device)
        size = float((told.weight * response.call**2).sum())
        gain = float((told.weight * response.surprise * response.call).sum()) / size if size > 0 else None
        silent = "nothing that answers an action at the next step moves here"
        lag = _lag(found, response, told.weight) if seen[0] is told else None
        return [
            ScoreRow("inconsistency", value, reason=words, step_values=step_values.astype(np.float32), spans=spans),
            ScoreRow("agreement", float(worst.agreement[coordinate]), reason=_name(seen, coordinate)),
            ScoreRow("correlation", _correlation(worst.response, coordinate), reason=_name(seen, coordinate)),
            ScoreRow("gain", gain) if gain is not None else ScoreRow("gain", None, "undefined", "no action calls"),
            *(
                ScoreRow(name, None if lag is None else lag * unit, *(("undefined", silent) if lag is None else ()))
                for name, unit in (("lag_steps", 1.0), ("lag_ms", 1000 * course.period))
            ),
            *last,
        ]

    def _evidence(
        self, raw: RawEpisode, told: _Told, late: _Told | None, jumps: np.ndarray, device: str
    ) -> tuple[tuple[Span, ...], str]:
        """Spans with reason codes, and what they say in words."""
        n = len(raw.state)
        spans = list(_jumps(told.rows, jumps, told.dynamics, n))
        if spans:
            return tuple(spans), _words(spans)
        if told.lost.max() >= _SUSPECT:
            suspicion = what_explains(raw, told.dynamics, told.weight, device)
            reason, said, worst = suspicion.reason, suspicion.words, told
        elif late is not None and late.lost.max() >= _SUSPECT:
            reason, said, worst = "contradicted", "a held command is not followed", late
        else:
            return (), ""
        bad = worst.lost >= _SUSPECT
        if reason in ("contradicted", "foreign_action") and set(worst.dynamics.command[bad]) <= _grippers(raw):
            reason, said = "gripper", "the gripper does not do what it is told"
        if reason in ("contradicted", "gripper"):
            steps = _contradicted(worst.rows, worst.response, np.where(bad, worst.weight, 0.0), n)
            spans = worst_spans(np.nan_to_num(steps), np.nan_to_num(steps, nan=-1.0) > 0, reason)
        else:
            spans = [Span(0, n, reason)]
        return tuple(spans), f"{reason}: {said}"

    def _undefined(self, raw: RawEpisode, reason: str) -> list[ScoreRow]:
        named = [metric.name for metric in self.spec.metrics if metric.name != "length"]
        return [
            *(ScoreRow(name, None, "undefined", reason) for name in named),
            ScoreRow("length", float(len(raw.state))),
        ]


def _told(
    raw: RawEpisode, course: Course, known: _Known, device: str, elsewhere: np.ndarray | None = None
) -> _Told | None:
    """What ``raw`` shows, but for coordinates (bool [ds]) that are judged ``elsewhere``; None where it is too short."""
    dynamics, places = known.dynamics, known.places.get(raw.task)
    found = dynamics.rows(course)
    if len(found) < MIN_ROWS:
        return None
    response = respond(found, dynamics.model(raw.motion_hash), device)
    weight = dynamics.weight(response)
    if elsewhere is not None:
        weight = np.where(elsewhere, 0.0, weight)
    agreement = concordance(response.surprise, response.call)
    usual, unit = dynamics.agreement
    there = places.expected(raw, found, response, dynamics.view, device) if places is not None else None
    if there is not None:
        there = np.minimum(there, usual)
        unit = unit * np.clip(there / np.where(usual > 0, usual, 1.0), _WITNESS, 1.0)
        usual = there
    lost = np.where(weight > 0, (usual - agreement) / np.where(unit > 0, unit, 1.0), -np.inf)
    return _Told(dynamics, found, response, weight, agreement, lost)


def _few(group: str) -> str:
    return f"fewer than {MIN_EPISODES} reference episodes of {group} with {MIN_ROWS} steps that can be predicted"


def _held(late: Dynamics | None, dynamics: Dynamics) -> Dynamics | None:
    """``late`` for the coordinates that half a second explains far better than one step; None where there are none."""
    if late is None:
        return None
    slow = late.driven & (1 - late.explained <= _SLOW * (1 - dynamics.explained))
    return replace(late, driven=slow) if slow.any() else None


def _named(fit: Fit, prefix: str) -> dict[str, np.ndarray]:
    """The arrays of ``fit`` whose names begin so, by what follows."""
    return {name[len(prefix) :]: values for name, values in fit.arrays.items() if name.startswith(prefix)}


def _places(found: Sequence[RawEpisode], dynamics: Dynamics, seed: int, device: str) -> dict[str, Places]:
    """What the episodes of each task show of a group's dynamics where they are."""
    seen: dict[str, list[tuple[RawEpisode, Rows, Response]]] = {}
    for raw in found:
        rows = dynamics.rows(dynamics.course(raw))
        if len(rows) >= MIN_ROWS:
            response = respond(rows, dynamics.model(raw.motion_hash), device)
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


def _jumps(found: Rows, jumps: np.ndarray, dynamics: Dynamics, n: int) -> Iterator[Span]:
    """The steps reached by a motion more than 1 / (1 - ``_SUSPECT``) times as large as usual jumps are."""
    moving = max(int((dynamics.jump + dynamics.reach > 0).sum()), 1)
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
    smooth = np.convolve(against, np.ones(_WINDOW) / _WINDOW)[_WINDOW // 2 :]  # "same" is longer than a short course
    steps = np.full(n, np.nan)
    steps[found.step] = smooth[: len(against)]
    return steps


def _grippers(raw: RawEpisode) -> set[int]:
    """The action dimensions whose names say gripper."""
    feature = raw.dataset.feature(ACTION)
    found = parts(feature) if feature is not None else ()
    return {dim for part in found if part.role == "gripper" for dim in part.components}


def _name(seen: Sequence[_Told], coordinate: int) -> str:
    """Words for the worst coordinate."""
    driven = np.any([one.weight > 0 for one in seen], axis=0)
    return f"the worst of {int(driven.sum())} driven coordinates is number {coordinate} of the view"
