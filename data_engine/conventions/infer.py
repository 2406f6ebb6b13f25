"""The conventions of one dataset, inferred from its names and a bounded sample of its episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from data_engine.conventions.control import is_named_delta, mode_of, pursuit
from data_engine.conventions.grippers import (
    CLOSES,
    OPENS,
    kind_of_gripper,
    polarity_by_effect,
    polarity_by_name,
    polarity_of_fingers,
    range_of,
)  # fmt: skip
from data_engine.conventions.motion import frame, latency, moved_by, slopes, steps_of
from data_engine.conventions.roles import Part, parts
from data_engine.conventions.rotations import (
    angles,
    evenly,
    matrices,
    order_of_quaternion,
    quaternions,
    rot6d,
    sign_flips,
)  # fmt: skip
from data_engine.conventions.units import (
    UNKNOWN,
    Unit,
    angle_unit,
    hand_unit,
    joint_unit,
    length_unit,
    named_unit,
    same_unit,
)  # fmt: skip
from data_engine.model import ACTION, STATE, Feature, Finding

__all__ = ["CONFIDENT", "infer"]

CONFIDENT = 0.8  # what a refusal and a column's unit may rest on
_UNNAMED = 0.75  # the most that values alone prove where no name says what they are
_WIDEST = 512
_UNITS = {"joint": joint_unit, "rotation": angle_unit, "position": length_unit, "hand": hand_unit}

Episode = Mapping[str, np.ndarray]


def infer(
    features: Sequence[Feature], episodes: Sequence[Episode], fps: float, *, mode: str | None = None
) -> tuple[Finding, ...]:
    """What ``episodes`` (column -> [n, d], NaN where missing; some of a dataset) show of its columns' conventions.

    Kinds and values are those of :mod:`data_engine.conventions`. Rows with a missing value in a column are ignored for
    it. ``mode``: ``absolute`` or ``delta`` where it is stated, which says how to read lags and changes. Pure;
    O(numbers in the sample, times the lags of a second). A confidence below :data:`CONFIDENT` is a hint.
    """
    found: list[Finding] = []
    for feature in features:
        values = _finite(feature, episodes)
        if values:
            found.extend(_Column(feature, values, mode).findings())
    by_name = {feature.name: feature for feature in features}
    if {STATE, ACTION} <= by_name.keys():
        pairs = _pairs(episodes)
        if pairs:
            return tuple(_Together(by_name[STATE], by_name[ACTION], features, pairs, fps, found, mode).findings())
    return tuple(found)


class _Column:
    """What one column shows by itself. ``values``: its finite rows, by episode."""

    def __init__(self, feature: Feature, values: Sequence[np.ndarray], mode: str | None) -> None:
        self.feature, self.values = feature, values
        self.rows = np.concatenate(values)
        self.parts = parts(feature)
        self.is_delta = feature.name == ACTION and (mode == "delta" or bool(is_named_delta(feature)))

    def findings(self) -> Iterator[Finding]:
        """Units, rotations and grippers."""
        yield from self._units()
        yield from self._rotations()
        yield from self._grippers()

    def _find(self, components: Sequence[int], kind: str, value: str, confidence: float, evidence: str) -> Finding:
        return Finding(
            column=self.feature.name, components=tuple(int(i) for i in components), kind=kind, value=value,
            confidence=round(confidence, 3), evidence=evidence,
        )  # fmt: skip

    def _units(self) -> Iterator[Finding]:
        for role, measure in _UNITS.items():
            mine = [part for part in self.parts if part.role == role]
            components = [i for part in mine for i in part.components]
            if components:
                said = named_unit(frozenset.intersection(*(part.words for part in mine)))
                yield self._find(components, "unit", *(said or self._measured(role, measure(self.rows[:, components]))))
        if not self.parts and self.feature.name in (STATE, ACTION) and self.rows.shape[1] >= 2:
            value, confidence, evidence = joint_unit(self.rows)
            if value == "range_m100_100" and self.rows.shape[1] <= 32:  # nothing else stops at +-100
                yield self._find(
                    range(self.rows.shape[1]), "unit", value, min(confidence, _UNNAMED),
                    f"{evidence}; no name says that these are joints",
                )  # fmt: skip
            else:
                yield self._find(range(self.rows.shape[1]), "unit", UNKNOWN, 0.0, "no name says what is measured")

    def _measured(self, role: str, unit: Unit) -> Unit:
        """``unit``, unless the values are changes, whose size proves nothing but a range that they stop at."""
        if self.is_delta and unit[0] != "range_m1_1":
            return UNKNOWN, 0.0, f"these are changes of a {role}, whose size tells no unit"
        return unit

    def _rotations(self) -> Iterator[Finding]:
        named = {i for part in self.parts if part.role in ("rotation", "joint") for i in part.components}
        for dim, period in angles(self.values, named):
            yield self._find(
                [dim], "wraps", f"{period:.6g}", 0.95, "it jumps by a turn, or is named so and fills half one"
            )
        sampled = [evenly(x) for x in self.values]
        sixes = rot6d(np.concatenate(sampled))  # first: an idle entry beside one of their axes has norm 1 too
        taken = {i for start in sixes for i in range(start, start + 6)}
        for start in sixes:
            yield self._find(range(start, start + 6), "rotation", "rot6d", 0.9, "two orthonormal axes in every step")
        for start in quaternions(sampled):
            if taken & set(range(start, start + 4)):
                continue
            taken |= set(range(start, start + 4))
            block = tuple(range(start, start + 4))
            part = self._part_at(block)
            four = [x[:, start : start + 4] for x in self.values]
            told = order_of_quaternion(part.axes if part else (), part.words if part else frozenset(), four)
            yield self._find(block, "quaternion", *told)
            flips = sign_flips(four)
            value = "flips" if flips else "continuous"
            yield self._find(block, "quaternion_sign", value, 0.95, f"{flips} steps go on as the negative")
        for part in self.parts:
            if part.role == "rotation" and len(part.components) == 3 and not taken & set(part.components):
                yield self._find(part.components, "rotation", *self._three(part))

    def _three(self, part: Part) -> Unit:
        """Whether three rotation entries are Euler angles or a rotation vector."""
        names = [(self.feature.components or ())[i].lower() for i in part.components]
        if all(any(word in name for word in ("roll", "pitch", "yaw")) for name in names) or part.words & {
            "euler",
            "rpy",
        }:
            return "euler", 0.95, f"components are named {', '.join(names)}"
        if part.words & {"rotvec", "axisangle"}:
            return "rotation_vector", 0.95, f"components are named {', '.join(names)}"
        size = np.linalg.norm(self.rows[:, list(part.components)], axis=1)
        if size.max(initial=0.0) > 1.05 * np.pi:
            return "euler", 0.7, f"their norm reaches {size.max():.2f}, more than half a turn"
        return UNKNOWN, 0.0, "within half a turn Euler angles and rotation vectors look alike"

    def _part_at(self, block: tuple[int, ...]) -> Part | None:
        return next((part for part in self.parts if part.components == block), None)

    def _grippers(self) -> Iterator[Finding]:
        joints = frozenset().union(*(part.words for part in self.parts if part.role == "joint"), frozenset())
        joints |= frozenset(
            word for name in self.feature.components or () for word in name.lower().replace(".", "_").split("_")
        )
        grippers = [part.components[0] for part in self.parts if part.role == "gripper"]
        fingers: dict[int, Unit] = {}
        names = self.feature.components or ()
        for one, two in pairwise(grippers):
            if (
                two == one + 1
                and "qpos" in names[one]
                and names[one].rpartition(".")[0] == names[two].rpartition(".")[0]
            ):
                polarities = polarity_of_fingers(self.rows[:, [one, two]])
                fingers |= dict(zip((one, two), polarities, strict=False))
        for dim in grippers:
            words = next(part.words for part in self.parts if part.components == (dim,))
            yield from self._gripper(dim, 0.95, fingers.get(dim) or polarity_by_name(words, joints, self.rows[:, dim]))
        wide = self.rows.shape[1]
        if self.feature.name == ACTION and not self.parts and wide >= 4:
            levels = [len(np.unique(evenly(self.rows)[:, i].round(6))) for i in range(wide)]
            if levels[-1] == 2 and min(levels[:-1]) > 8:
                yield from self._gripper(wide - 1, 0.6, None)

    def _gripper(self, dim: int, sure: float, polarity: Unit | None) -> Iterator[Finding]:
        values = self.rows[:, dim]
        by = "named so" if sure > 0.9 else "the last entry, of two values beside continuous ones"
        kind = kind_of_gripper(values)
        yield self._find(
            [dim], "gripper", kind, sure if kind != UNKNOWN else 0.0, f"{len(np.unique(values))} values; {by}"
        )
        yield self._find(
            [dim], "gripper_range", range_of(values), sure, f"values from {values.min():g} to {values.max():g}"
        )
        yield self._find(
            [dim], "gripper_polarity", *(polarity or (UNKNOWN, 0.0, "neither its name nor its values tell"))
        )


class _Together:
    """What state and action show of each other, on top of what each shows by itself (``alone``)."""

    def __init__(
        self, state: Feature, action: Feature, features: Sequence[Feature],
        pairs: Sequence[tuple[np.ndarray, np.ndarray]], fps: float, alone: Sequence[Finding], stated: str | None,
    ) -> None:  # fmt: skip
        self.state, self.action, self.pairs, self.fps, self.found = state, action, pairs, fps, list(alone)
        course = pursuit(pairs[:3])
        self.measured, self.evidence = mode_of(action, course)
        self.mode = stated or self.measured
        self.course = course.follows if course else {}
        self.namesakes = _namesakes(state, action)

    def findings(self) -> list[Finding]:
        """All findings: those of the columns, completed by what the two tell of each other."""
        self._share_units()
        self._orders()
        self._polarity()
        mode = self.measured if self.measured in ("delta", "absolute") else UNKNOWN
        sure = 0.9 if mode != UNKNOWN else 0.0
        everything = range(self.action.size)
        self._add(everything, "action_mode", mode, sure, self.evidence)
        self._latency(everything)
        self._frame()
        return self.found

    def _add(self, components: Sequence[int], kind: str, value: str, confidence: float, evidence: str) -> None:
        self.found.append(
            Finding(
                column=ACTION, components=tuple(components), kind=kind, value=value, confidence=confidence,
                evidence=evidence,
            )
        )  # fmt: skip

    def _share_units(self) -> None:
        """An action that follows the state one to one (or in a known ratio) has its unit, and the other way round."""
        for i, finding in enumerate(self.found):
            if finding.kind != "unit" or finding.value != UNKNOWN or finding.column not in (STATE, ACTION):
                continue
            mine = set(finding.components)
            for other in self.found:
                crossed = {other.column, finding.column} == {STATE, ACTION}
                if other.kind != "unit" or not crossed or other.value == UNKNOWN or other.confidence < CONFIDENT:
                    continue
                on_action = finding.column == ACTION
                follows = {
                    a: s for a, s in self.namesakes.items()
                    if (a if on_action else s) in mine and (s if on_action else a) in other.components
                }  # fmt: skip
                ratios = slopes(self.pairs, follows, delta=self.mode == "delta")
                if len(ratios) < max(1, len(mine) // 3):
                    continue
                unit = same_unit(other.value, ratios if on_action else [1 / ratio for ratio in ratios])
                if unit is not None:
                    ratio = float(np.median(ratios if on_action else 1 / np.array(ratios)))
                    why = f"{len(ratios)} components are {ratio:.3g} times {other.column}'s, which are in {other.value}"
                    update = {"value": unit, "confidence": round(other.confidence * 0.95, 3), "evidence": why}
                    self.found[i] = finding.model_copy(update=update)
                    break

    def _orders(self) -> None:
        """The order of a state's quaternion by the rotation that the action asks for."""
        spins = [
            part.components for part in parts(self.action) if part.role == "rotation" and len(part.components) == 3
        ]
        if self.mode == "absolute" or len(spins) != 1:
            return
        for i, finding in enumerate(self.found):
            if finding.kind == "quaternion" and finding.column == STATE and finding.confidence < 0.9:
                four = [state[:, list(finding.components)] for state, _ in self.pairs]
                asked = [action[:, list(spins[0])] for _, action in self.pairs]
                value, confidence, evidence = order_of_quaternion((), frozenset(), four, asked)
                if confidence > finding.confidence:
                    update = {"value": value, "confidence": confidence, "evidence": evidence}
                    self.found[i] = finding.model_copy(update=update)

    def _polarity(self) -> None:
        """The polarity of an action's gripper by what it does to the state's."""
        known = [
            f for f in self.found if f.column == STATE and f.kind == "gripper_polarity" and f.value in (OPENS, CLOSES)
        ]
        if not known:
            return
        for i, finding in enumerate(self.found):
            if (finding.column, finding.kind, finding.value) == (ACTION, "gripper_polarity", UNKNOWN):
                near = _same_side(self.state, self.action, known, finding.components[0])
                told = polarity_by_effect(
                    self.pairs, finding.components[0], [f.components[0] for f in near], [f.value for f in near]
                )
                if told:
                    value, confidence, evidence = told
                    confidence = round(min(confidence, *(f.confidence for f in near)), 3)
                    update = {"value": value, "confidence": confidence, "evidence": evidence}
                    self.found[i] = finding.model_copy(update=update)

    def _latency(self, everything: Sequence[int]) -> None:
        delta = self.mode == "delta"
        follows = moved_by(self.pairs) if delta else self.course
        told = latency(self.pairs, follows, self.fps, delta=delta) if self.mode in ("delta", "absolute") else None
        if told is None:
            self._add(everything, "latency", UNKNOWN, 0.0, "no lag within a second stands out")
        else:
            lag, fits = told
            why = (
                f"{lag} steps, {1000 * lag / self.fps:.0f} ms: the state's velocity follows with correlation {fits:.2f}"
            )
            self._add(everything, "latency", str(lag), 0.9 if fits > 0.8 else 0.7 if fits > 0.5 else 0.6, why)

    def _frame(self) -> None:
        """The frame of commanded translations, where the state has a pose to hold them against."""
        moves = [part for part in parts(self.action) if part.role == "position" and len(part.components) == 3]
        places = [part for part in parts(self.state) if part.role == "position" and len(part.components) == 3]
        turns = [f for f in self.found if f.kind == "quaternion" and f.column == STATE and f.confidence >= CONFIDENT]
        if len(moves) != 1 or not places:
            return
        for name in ("world", "base"):
            if name in moves[0].words:
                self._add(moves[0].components, "frame", name, 0.9, f"components are named {name}")
                return
        if self.mode != "delta" or not turns:
            return
        place = list(places[0].components)
        moved = [steps_of(state[:, place]) for state, _ in self.pairs]
        turned = [matrices(state[:-1, list(turns[0].components)], turns[0].value) for state, _ in self.pairs]
        told = frame(moved, turned, [action[:-1, list(moves[0].components)] for _, action in self.pairs])
        if told:
            self._add(moves[0].components, "frame", told[0], 0.85, told[1])


def _finite(feature: Feature, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """The finite rows [n, d] of a column in each episode that has some; none for what is no measurement."""
    measured = feature.name == ACTION or feature.name.startswith(("observation.", f"{ACTION}."))
    if not measured or feature.is_camera or feature.dtype == "string" or feature.size > _WIDEST:
        return []
    found = []
    for episode in episodes:
        values = episode.get(feature.name)
        if values is not None and values.shape[1] == feature.size:
            rows = values[np.isfinite(values).all(axis=1)]
            if len(rows):
                found.append(rows)
    return found


def _pairs(episodes: Sequence[Episode]) -> list[tuple[np.ndarray, np.ndarray]]:
    """State and action of the steps at which both are finite, of each episode with at least eight of them."""
    found = []
    for episode in episodes:
        if STATE in episode and ACTION in episode:
            state, action = episode[STATE], episode[ACTION]
            ok = np.isfinite(state).all(axis=1) & np.isfinite(action).all(axis=1)
            if ok.sum() >= 8:
                found.append((state[ok], action[ok]))
    return found


def _namesakes(state: Feature, action: Feature) -> dict[int, int]:
    """Action dimension -> the state dimension of its name; by place where widths agree and either has no names."""
    ours, theirs = state.components, action.components
    if not ours or not theirs:
        return {i: i for i in range(action.size)} if state.size == action.size else {}
    place = {_stem(name): i for i, name in enumerate(ours)}
    found = {i: place[_stem(name)] for i, name in enumerate(theirs) if _stem(name) in place}
    if found or state.size != action.size:
        return found
    return {i: i for i in range(action.size)}


def _stem(name: str) -> str:
    """A name without what tells a command from a measurement: ``delta_x`` is ``x``, ``main_gripper`` is ``gripper``."""
    stem = name.lower()
    for prefix in ("delta_", "delta.", "main_", "action_", "state_", "target_", "goal_"):
        stem = stem.removeprefix(prefix)
    return stem[1:] if stem in ("dx", "dy", "dz") else stem.removesuffix(".pos")


def _same_side(state: Feature, action: Feature, known: Sequence[Finding], dim: int) -> Sequence[Finding]:
    """The state's grippers of the same arm (left, right) as the action's, where names tell; else all."""
    name = (action.components or ())[dim].lower() if action.components else ""
    side = next((side for side in ("left", "right") if side in name), None)
    mine = [f for f in known if side and state.components and side in state.components[f.components[0]].lower()]
    return mine or known
