"""How the motion of a group of like episodes responds to their actions, learned although some of them are wrong.

Up to half of the episodes may have actions that did not cause their motion. The response is therefore fitted by least
trimmed squares (Rousseeuw and Van Driessen, "Computing LTS Regression for Large Data Sets", 2006) over whole episodes:
fit, keep the half that agrees best, repeat. It starts from the half of the most usual action sizes, so that a wrong
unit, which weighs a thousandfold, has no say. What is usual is then learned from the episodes that agree with the core.

Most coordinates show at the next step what an action does. What a held command drives, one of few values like a
gripper's, shows it half a second later, where it is no longer foretold by its own past (:func:`learn_held`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from data_engine.reference import RawEpisode, key_of
from data_engine.view import View
from scorers.kernels.response import Model, Response, Rows, concordance, curved, fit, held_rows, respond, rows

__all__ = ["FOLDS", "MIN_EPISODES", "MIN_ROWS", "Course", "Dynamics", "fold_of", "leaps", "learn", "learn_held"]

FOLDS = 5
MIN_EPISODES = 4
_UNEVEN = 25  # episodes, of fewer than which folds by hash may leave next to nothing to learn from
MIN_ROWS = 8  # predictable steps below which nothing is said of an episode
_STEPS = 30_000  # steps of the reference that the final models see
_SEARCH_STEPS = 12_000  # and that the search for the core sees
_CUT = 3.0  # half widths of the usual action range beyond which an action is cut: it limits the leverage of a few
_DRIVEN = 0.2  # share of a coordinate's surprise that actions explain in the median episode, for it to be driven
_HELD_S = 0.5  # seconds after which it is asked what a held command has done
_FOLLOWED = 0.5  # share that actions explain by then, for a coordinate to be driven by a held one
_PRIMARY = 0.5  # of what they explain of the coordinate that answers the same action best: less is a passive one
_IDLE = 0.1  # of the usual surprise and call: below it a coordinate rests, and says nothing
_CORE = 0.4  # share of the episodes that the search keeps: half of all may be wrong
_ROUNDS = 5  # of the search, by all coordinates together, and then as many by the worst one
_WIDENED = 2  # rounds that let in the episodes that agree with the core, and then with those
_LOST = 0.5  # of the usual agreement: what an episode may miss and still belong to the others
_JUMPS = 3.0  # usual jumps that it may make
_WIDE = 6.0  # quartile deviations of a coordinate's concordance that count as all of it
_REACH = 0.05  # of a coordinate's range: what a jump has to exceed beyond the usual ones
_RESOLUTION = 0.05  # quantile of the gaps between the values that a coordinate takes, for its resolution


@dataclass(frozen=True)
class Course:
    """One episode as a group's dynamics sees it: ``state`` [n, ds], ``action`` [n, da] (cut, in half widths of its
    usual range), ``pace`` [n - 1] (see :func:`scorers.kernels.response.rows`), ``period`` seconds a step."""

    state: np.ndarray
    action: np.ndarray
    pace: np.ndarray
    period: float


@dataclass(frozen=True)
class Dynamics:
    """What is usual in one group. Arrays by state coordinate of ``view`` [ds] unless said otherwise.

    ``models``: the one of all episodes, then those that have not seen fold k. ``centre``, ``width`` [da]: of the
    action. ``command`` int64: the action dimension that moves a coordinate most. ``place`` [2, ds]: middle and half
    width of the states. ``driven`` bool: coordinates that actions move. ``agreement`` [2, ds]: the usual concordance,
    and what a loss of it is measured in. ``energy``: usual mean square of surprise and call together. ``left``: usual
    root mean square of what is unexplained. ``jump``: the largest leap (see :func:`leaps`) of 95 % of episodes, of all
    but one where they are few, and ``reach`` what a jump has to exceed beyond it: a twentieth of the range that the
    coordinate has, or its resolution where that is more. ``explained``: the share of the surprise that actions explain.
    ``member`` uint64 and ``fold`` int64 [E]: who has been seen, and by all models but which. ``coordinates``: which of
    the view's these are, all by default. ``ahead``: 1, or the steps after which a held command is asked about.
    """

    view: View
    models: Sequence[Model]
    centre: np.ndarray
    width: np.ndarray
    command: np.ndarray
    place: np.ndarray
    driven: np.ndarray
    agreement: np.ndarray
    energy: np.ndarray
    left: np.ndarray
    jump: np.ndarray
    reach: np.ndarray
    explained: np.ndarray
    member: np.ndarray
    fold: np.ndarray
    coordinates: np.ndarray | None = None
    ahead: int = 1

    def course(self, raw: RawEpisode, action: np.ndarray | None = None) -> Course:
        """``raw`` in the group's coordinates; with ``action`` [n, da], as if those had been its actions."""
        course = _course(raw if action is None else replace(raw, action=action), self.view, self.centre, self.width)
        return course if self.coordinates is None else replace(course, state=course.state[:, self.coordinates])

    def only(self, coordinates: np.ndarray) -> Dynamics:
        """The dynamics of some ``coordinates`` (indices), for looking at them alone."""
        cut = {name: getattr(self, name)[..., coordinates] for name in _BY_COORDINATE}
        models = [Model(*(getattr(model, field.name)[coordinates] for field in fields(Model))) for model in self.models]
        return replace(self, models=models, coordinates=coordinates, **cut)

    def rows(self, course: Course, shift: int = 0) -> Rows:
        """The predictable steps of ``course``, its actions taken from ``shift`` steps later (not for held ones)."""
        if self.ahead > 1:
            return held_rows(course.state, course.action, course.pace, self.ahead)
        return curved(rows(course.state, course.action, course.pace, shift), self.command, *self.place)

    def model(self, motion_hash: str) -> Model:
        """The model that has not seen this recording."""
        at = int(np.searchsorted(self.member, _key(motion_hash)))
        seen = at < len(self.member) and self.member[at] == _key(motion_hash)
        return self.models[1 + (int(self.fold[at]) if seen else fold_of(motion_hash))]

    def weight(self, response: Response) -> np.ndarray:
        """Weight of each coordinate [ds] where driven and not at rest in ``response``; 0 elsewhere."""
        seen = self.driven & (_size(response) > _IDLE * self.energy)
        return np.where(seen, 1 / np.where(self.left > 0, self.left, 1.0) ** 2, 0.0)

    def jumps(self, course: Course, found: Rows, response: Response) -> np.ndarray:
        """The leaps of an episode over what is usual of a coordinate [m, ds], 0 where it never moves. What an episode
        ranges over counts as much as what others do: an arm that they leave alone is one that this one may use."""
        reach = np.maximum(self.reach, _REACH * np.subtract(*_spread(course.state)))
        usual = self.jump + np.where(self.jump + self.reach > 0, reach, np.inf)
        return leaps(course, found, response) / usual

    def arrays(self) -> dict[str, np.ndarray]:
        """All but the view, as arrays."""
        found = {name: np.asarray(getattr(self, name)) for name in _NAMES}
        for field in fields(Model):
            found[f"model.{field.name}"] = np.stack([getattr(model, field.name) for model in self.models])
        return found

    @staticmethod
    def load(view: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Dynamics:
        """What ``arrays`` and the view's ``as_dict`` kept."""
        stacked = {field.name: arrays[f"model.{field.name}"] for field in fields(Model)}
        models = [Model(**{name: x[k] for name, x in stacked.items()}) for k in range(FOLDS + 1)]
        kept = {name: arrays[name] for name in _NAMES if name != "ahead"}
        return Dynamics(View(**view), models, ahead=int(arrays["ahead"]), **kept)


_BY_COORDINATE = ("command", "place", "driven", "agreement", "energy", "left", "jump", "reach", "explained")
_NAMES = ("centre", "width", "ahead", "member", "fold", *_BY_COORDINATE)


def fold_of(motion_hash: str) -> int:
    """The fold of a recording, whether or not it is in the reference; but see :func:`_dealt`."""
    return int(_key(motion_hash)) % FOLDS


def _key(motion_hash: str) -> np.uint64:
    return np.uint64(key_of(0, motion_hash, "fold"))


def _dealt(found: Sequence[RawEpisode]) -> tuple[np.ndarray, np.ndarray]:
    """Key and fold of each recording [E], by key. Where they are few, folds are dealt out in turn: by hash alone, half
    of six may be in one, or all of four."""
    member = np.unique(np.array([_key(raw.motion_hash) for raw in found], np.uint64))
    turn = np.arange(len(member)) if len(member) < _UNEVEN else member
    return member, (turn % FOLDS).astype(np.int64)


def leaps(course: Course, found: Rows, response: Response) -> np.ndarray:
    """How far each coordinate leaps in each step that can be predicted, [m, ds] in its own unit: the least of what it
    moves, of what sets that apart from the motions before and after, and of what its past and the actions leave
    unexplained. So nothing leaps that rests, however wrongly it is foretold, nor what sets off or stops, as things do
    that a robot touches."""
    motion = np.full_like(course.state, np.nan)
    motion[:-1] = np.diff(course.state, axis=0) * course.pace[:, None]
    here, before, after = motion[found.step], motion[found.step - 1], motion[found.step + 1]
    apart = np.fmin(np.abs(here - before), np.abs(here - after))
    return np.minimum.reduce([np.abs(here), apart, np.abs(response.surprise), np.abs(response.left)])


def learn(found: Sequence[RawEpisode], view: View, seed: int, device: str = "cpu") -> Dynamics | None:
    """The dynamics of one group's reference; None where fewer than ``MIN_EPISODES`` have steps enough."""
    return _learn(found, view, seed, device, None)


def learn_held(found: Sequence[RawEpisode], view: View, seed: int, device: str = "cpu") -> Dynamics | None:
    """What held commands, those of few values, have done after half a second. None where there is no such command, or
    no coordinate follows one, or fewer than ``MIN_EPISODES`` have steps enough."""
    held = np.zeros(view.unfolded(found[0])[1].shape[1], bool)
    held[[index for index, _, _, few in view.action if few]] = True
    if not held.any():
        return None
    dynamics = _learn(found, view, seed, device, held)
    if dynamics is None:
        return None
    follows = dynamics.driven & (dynamics.explained >= _FOLLOWED)
    return replace(dynamics, driven=follows) if follows.any() else None


def _learn(found: Sequence[RawEpisode], view: View, seed: int, device: str, held: np.ndarray | None) -> Dynamics | None:
    """The dynamics of all commands at the next step, or of those ``held`` (bool, by action dimension) later on."""
    view = replace(view, relative=())  # a coordinate's own position is a feature: the action need not be relative to it
    found = _drawn(found, seed, _STEPS)
    bare = [_course(raw, view, 0.0, 1.0, np.inf) for raw in found]
    centre, width, unusual = _action_range([course.action for course in bare])
    courses = [_course(raw, view, centre, width) for raw in found]
    ahead = 1
    if held is None:
        parts = [rows(course.state, course.action, course.pace) for course in courses]
    else:
        ahead = max(round(_HELD_S / float(np.median([course.period for course in courses]))), 2)
        parts = [held_rows(course.state, course.action, course.pace, ahead) for course in courses]
    usable = [i for i, part in enumerate(parts) if len(part) >= MIN_ROWS]
    if len(usable) < MIN_EPISODES:
        return None
    found, courses = [found[i] for i in usable], [courses[i] for i in usable]
    parts, unusual = [parts[i] for i in usable], unusual[usable]
    few = {raw.motion_hash for raw in _drawn(found, seed, _SEARCH_STEPS)}
    searched = [i for i, raw in enumerate(found) if raw.motion_hash in few]
    states = np.concatenate([course.state[np.isfinite(course.state).all(axis=1)] for course in courses])
    low, middle, high = np.percentile(states, [5, 50, 95], axis=0)
    place = middle, np.where(high > low, (high - low) / 2, 1.0)
    tasks = np.array([found[i].task for i in searched])
    if held is None:
        core = _least(unusual[searched], tasks)
        core, model = _search([parts[i] for i in searched], core, tasks, _unexplained, device)
        command = _commands(model, len(width))
        parts = [curved(part, command, *place) for part in parts]
    else:
        core = _least(_unlike_their_task([parts[i].action[:, held] for i in searched], tasks), tasks)
        (model,) = fit(Rows.joined([parts[searched[i]] for i in core]), device=device)
        command = _commands(model, len(width))
    unlike = partial(_disagreement, command=command, held=held)
    core, _ = _search([parts[i] for i in searched], core, tasks, unlike, device)
    reach, kept = np.maximum(_REACH * (high - low), _resolution(states)), [searched[i] for i in core]
    for _ in range(_WIDENED):
        _, responses = _apart(parts, kept, device)
        kept = _accepted(responses, _largest(courses, parts, responses, held), kept, unlike, reach)
    found, courses, parts = [found[i] for i in kept], [courses[i] for i in kept], [parts[i] for i in kept]
    member, dealt = _dealt(found)
    folds = dealt[np.searchsorted(member, np.array([_key(raw.motion_hash) for raw in found], np.uint64))]
    models = fit(Rows.joined(parts), np.repeat(folds, [len(part) for part in parts]), FOLDS, device)
    responses = [respond(part, models[1 + fold], device) for part, fold in zip(parts, folds, strict=True)]
    energy = _usual_energy(responses, held)
    return Dynamics(
        view=view,
        models=models,
        centre=centre,
        width=width,
        command=command,
        place=np.array(place),
        driven=_driven(responses, energy, command, held),
        agreement=_usual_agreement(_agreements(responses, energy)),
        energy=energy,
        left=np.median([np.sqrt((r.left**2).mean(axis=0)) for r in responses], axis=0),
        jump=_usual(_largest(courses, parts, responses, held)),
        reach=reach,
        explained=_usually_explained(responses, energy),
        member=member,
        fold=dealt,
        ahead=ahead,
    )


def _course(
    raw: RawEpisode, view: View, centre: np.ndarray | float, width: np.ndarray | float, cut: float = _CUT
) -> Course:
    state, action = view.unfolded(raw)
    steps = np.full(len(state) - 1, 1 / raw.dataset.fps) if raw.time is None else np.diff(raw.time)
    usual = steps[np.isfinite(steps) & (steps > 0)]
    period = float(np.median(usual)) if len(usual) else 1 / raw.dataset.fps
    with np.errstate(divide="ignore", invalid="ignore"):
        pace = np.where((steps > 0) & (steps < 1.5 * period), period / steps, np.nan)
    return Course(state, np.clip((action - centre) / width, -cut, cut), pace, period)


def _drawn(found: Sequence[RawEpisode], seed: int, budget: int) -> list[RawEpisode]:
    """Episodes of about ``budget`` steps in all, drawn by motion hash, in the order of ``found``."""
    order = sorted(found, key=lambda raw: key_of(seed, raw.motion_hash, "dynamics"))
    ends = np.cumsum([len(raw.state) for raw in order])
    taken = {raw.motion_hash for raw in order[: max(int(np.searchsorted(ends, budget)), MIN_EPISODES)]}
    return [raw for raw in found if raw.motion_hash in taken]


def _action_range(actions: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and half width [da] of the median episode's actions, and how unusual the size of each episode's is [E]."""
    finite = [x[np.isfinite(x).all(axis=1)] for x in actions]
    low, middle, high = np.array(
        [np.percentile(x, [5, 50, 95], axis=0) if len(x) else np.full((3, x.shape[1]), np.nan) for x in finite]
    ).transpose(1, 0, 2)
    half = (high - low) / 2
    moving = np.where(half > 0, half, np.nan)
    some = np.isfinite(moving).any(axis=0)
    width = np.where(some, np.nanmedian(np.where(some, moving, 1.0), axis=0), 1.0)
    unusual = np.abs(np.log((half / width + 0.05) / 1.05)).mean(axis=1)
    return np.nanmedian(middle, axis=0), width, np.where(np.isfinite(unusual), unusual, np.inf)


def _unlike_their_task(actions: Sequence[np.ndarray], tasks: np.ndarray) -> np.ndarray:
    """How far the mean of each episode's actions [n, d] is from the median of such means in its task [E]."""
    means = np.array([x.mean(axis=0) for x in actions])
    usual = {task: np.median(means[tasks == task], axis=0) for task in np.unique(tasks)}
    return np.abs(means - np.array([usual[task] for task in tasks])).mean(axis=1)


def _search(
    parts: Sequence[Rows],
    core: np.ndarray,
    tasks: np.ndarray,
    unlike: Callable[[Sequence[Response], Sequence[Response]], np.ndarray],
    device: str,
) -> tuple[np.ndarray, Model]:
    """The episodes of each task that are least unlike what the model of them expects, from ``core`` on; that model."""
    for _ in range(_ROUNDS):
        model, responses = _apart(parts, core, device)
        better = _least(unlike(responses, [responses[i] for i in core]), tasks)
        if np.array_equal(better, core):
            break
        core = better
    return core, model


def _apart(parts: Sequence[Rows], core: Sequence[int] | np.ndarray, device: str) -> tuple[Model, list[Response]]:
    """The model of the ``core``, and what it says of all episodes; what is said of the core, by models that have not
    seen it. Otherwise a few episodes of a wide action, whom a model fits whatever they do, agree with nobody else."""
    folds = np.arange(len(core)) % FOLDS
    among = [parts[i] for i in core]
    of_rows = np.repeat(folds, [len(part) for part in among])
    model, *others = fit(Rows.joined(among), of_rows, min(len(core), FOLDS), device)
    unseen = {i: others[fold] for i, fold in zip(core, folds, strict=True)}
    return model, [respond(part, unseen.get(i, model), device) for i, part in enumerate(parts)]


def _least(values: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Indices, sorted, of the share ``_CORE`` of each task's episodes with the least ``values``, so that the core knows
    every task; of all together where there are few."""
    chosen: list[int] = []
    for task in np.unique(tasks):
        own = np.flatnonzero(tasks == task)
        chosen += own[np.argsort(values[own], kind="stable")[: round(_CORE * len(own))]].tolist()
    if len(chosen) < MIN_EPISODES:
        return np.sort(np.argsort(values, kind="stable")[: max(round(_CORE * len(values)), MIN_EPISODES - 1)])
    return np.sort(chosen)


def _commands(model: Model, width: int) -> np.ndarray:
    """The action dimension, of ``width``, that moves each coordinate most [ds]."""
    taps = model.weight[:, : -model.own_weight.shape[1]]
    return np.abs(taps.reshape(len(taps), -1, width).sum(axis=1)).argmax(axis=1)


def _accepted(
    responses: Sequence[Response],
    largest: np.ndarray,
    core: Sequence[int],
    unlike: Callable[[Sequence[Response], Sequence[Response]], np.ndarray],
    reach: np.ndarray,
) -> list[int]:
    """The episodes that agree with the core or nearly so, and whose ``largest`` leaps [E, ds] are no jumps; at least
    the core."""
    agrees = unlike(responses, [responses[i] for i in core]) < _LOST
    limit = _usual(largest[list(core)]) + reach
    inside = agrees & ~(largest > _JUMPS * np.where(limit > 0, limit, np.inf)).any(axis=1)
    inside[list(core)] = True
    return [int(i) for i in np.flatnonzero(inside)]


def _unexplained(responses: Sequence[Response], trusted: Sequence[Response]) -> np.ndarray:
    """One minus the concordance over all coordinates [E], each weighed by how far actions usually explain it."""
    usual = np.median([(r.surprise**2).mean(axis=0) for r in trusted], axis=0)
    explained = np.clip(np.median([_explained(r) for r in trusted], axis=0), 0.0, 1.0)
    weight = np.where(usual > 0, explained / np.where(usual > 0, usual, 1.0), 0.0)
    both = np.array([(weight * r.surprise * r.call).sum() for r in responses])
    each = np.array([(weight * (r.surprise**2 + r.call**2)).sum() for r in responses])
    return 1 - 2 * both / np.where(each > 0, each, 1.0)


def _disagreement(
    responses: Sequence[Response], trusted: Sequence[Response], command: np.ndarray, held: np.ndarray | None
) -> np.ndarray:
    """The share of its usual agreement that the worst driven coordinate of each episode has lost [E]."""
    energy = _usual_energy(trusted, held)
    driven = _driven(trusted, energy, command, held)
    if not driven.any():
        return np.zeros(len(responses))
    usual, unit = _usual_agreement(_agreements(trusted, energy))[:, driven]
    lost = (usual - _agreements(responses, energy)[:, driven]) / unit
    return np.nan_to_num(lost, nan=0.0).max(axis=1)


def _driven(
    responses: Sequence[Response], energy: np.ndarray, command: np.ndarray, held: np.ndarray | None
) -> np.ndarray:
    """bool [ds]: the coordinates that answer an action best. An object moves with the hand, but only where it is held:
    what answers far worse than another to the same action is no witness. Of ``held`` actions alone, where given."""
    explained = _usually_explained(responses, energy)
    best = np.zeros(command.max() + 1)
    np.maximum.at(best, command, explained)
    answers = explained >= np.maximum(_DRIVEN, _PRIMARY * best[command])
    return answers if held is None else answers & held[command]


def _usually_explained(responses: Sequence[Response], energy: np.ndarray) -> np.ndarray:
    """The share of the surprise [ds] that actions explain in the median episode where a coordinate does not rest."""
    explained = np.array([np.where(_size(r) > _IDLE * energy, _explained(r), np.nan) for r in responses])
    return np.nanmedian(np.where(np.isfinite(explained).any(axis=0), explained, 0.0), axis=0)


def _explained(response: Response) -> np.ndarray:
    """The share [ds] that the actions explain of the surprise, or of the motion where that is less: what is held where
    others are not surprises at every step, though it only trembles. 0 where there is none."""
    surprise, motion, left = ((x**2).sum(axis=0) for x in (response.surprise, response.motion, response.left))
    there = np.minimum(surprise, motion)
    moved = there > 1e-18
    return np.where(moved, 1 - left / np.where(moved, there, 1.0), 0.0)


def _size(response: Response) -> np.ndarray:
    """Mean square [ds] of surprise and call together."""
    return (response.surprise**2).mean(axis=0) + (response.call**2).mean(axis=0)


def _usual_energy(responses: Sequence[Response], held: np.ndarray | None) -> np.ndarray:
    """[ds]: of the median episode. What held commands drive rests in most, where it trembles or is pushed a little: of
    the episodes where it is driven, by a mean that each weighs in by its own size."""
    sizes = np.array([_size(r) for r in responses])
    if held is None:
        return np.median(sizes, axis=0)
    total = sizes.sum(axis=0)
    return (sizes**2).sum(axis=0) / np.where(total > 0, total, 1.0)


def _agreements(responses: Sequence[Response], energy: np.ndarray) -> np.ndarray:
    """Concordance [E, ds] of the coordinates; NaN where one rests."""
    return np.array([np.where(_size(r) > _IDLE * energy, concordance(r.surprise, r.call), np.nan) for r in responses])


def _usual_agreement(values: np.ndarray) -> np.ndarray:
    """[2, ds] of concordances [E, ds], NaN where unknown: their median, and what a loss is measured in: the median too,
    or, where episodes differ more than that, the width of their lower half."""
    values = np.where(np.isfinite(values).any(axis=0), values, 0.0)
    centre = np.nanmedian(values, axis=0)
    return np.stack([centre, np.maximum(centre, _WIDE * (centre - np.nanquantile(values, 0.25, axis=0)))])


def _largest(
    courses: Sequence[Course], parts: Sequence[Rows], responses: Sequence[Response], held: np.ndarray | None
) -> np.ndarray:
    """The largest leap of each episode [E, ds]; of what ``held`` commands drive, all that is unexplained later on."""
    if held is not None:
        return np.array([np.abs(r.left).max(axis=0) for r in responses])
    return np.array([leaps(*one).max(axis=0) for one in zip(courses, parts, responses, strict=True)])


def _usual(largest: np.ndarray) -> np.ndarray:
    """What 95 % of episodes keep below [ds], of [E, ds]: never the largest of two or more, which may be a defect."""
    return np.quantile(largest, 0.95, axis=0, method="lower")


def _resolution(states: np.ndarray) -> np.ndarray:
    """How far apart neighbouring values of ``states`` [n, ds] are [ds]: an encoder's step, next to nothing for what is
    continuous, 0 for a constant."""
    found = np.zeros(states.shape[1])
    for k, column in enumerate(states.T):
        gaps = np.diff(np.unique(column))
        gaps = gaps[gaps > 1e-6 * np.ptp(column)]  # less is rounding
        found[k] = np.quantile(gaps, _RESOLUTION) if len(gaps) else 0.0
    return found


def _spread(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where all but the outermost tenth of ``state`` [n, ds] lies: its upper and its lower end [ds]."""
    high, low = np.percentile(state[np.isfinite(state).all(axis=1)], [95, 5], axis=0)
    return high, low
