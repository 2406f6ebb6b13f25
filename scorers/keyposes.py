"""Keyposes and the segments between them, from proprioception: gripper changes, stops, the last step.

James and Davison, "Q-attention: Enabling Efficient Learning for Vision-based Robotic Manipulation" (2022). What stands
still is told in metres and radians a second where the state has units, and where it has none by the group's own speeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.conventions import CONFIDENT
from data_engine.conventions.roles import parts
from data_engine.labelling import Annotation, Labeller, Labels, LabelSpec
from data_engine.model import ACTION, STATE, Dataset
from data_engine.reference import RawEpisode, Reference, episodes
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, ScoreRow
from data_engine.view import View, fit_views
from scorers.kernels.keyposes import keyposes, ways
from scorers.motion import clock, fast, path, speeds

__all__ = ["Keyposes"]

_REFERENCE_STEPS = 20_000
_MIN_STEPS = 5
_TURN = 0.5  # of its range: from half open to closed is a change, a tremble is none
_UNITS = {"m": 1.0, "mm": 1e-3, "rad": 1.0, "deg": np.pi / 180}
_ANGLES = ("rad", "deg")
_NOT_ARM = ("gripper", "hand", "rate")


class Keyposes(Labeller):
    """Annotations ``keypose`` (one step, ``label``: gripper_opens, gripper_closes, gripper, stop or end) and
    ``segment``: from the step after a keypose to the next one, with the label of the keypose that ends it. Segments
    tile the episode.

    The arm stands still where no measured component of the state is faster than ``still_rad_s`` or ``still_m_s``. Where
    no unit of the state is known it is slower than ``still`` of the fast speed (90 % quantile) of the group's median
    episode. A stop is a rest of ``rest_s`` seconds or more. A gripper changes where its state, else its command,
    turns and moves by half its range. Keyposes are ``apart`` steps from each other at least.

    Metrics: ``count``, ``stops``, ``gripper_changes``, ``segment_s`` (median seconds of a segment), ``length``.
    Undefined below 5 finite steps; steps that are not finite are none.
    """

    still_rad_s: float = Field(default=0.1, gt=0)
    still_m_s: float = Field(default=0.02, gt=0)
    still: float = Field(default=0.1, gt=0, lt=1)
    rest_s: float = Field(default=0.2, ge=0)
    apart: int = Field(default=4, ge=1)

    spec: ClassVar[LabelSpec] = LabelSpec(
        name="keyposes",
        version="2",
        level="step",
        metrics=(
            Metric("count", "keyposes", "neither"),
            Metric("stops", "keyposes", "neither"),
            Metric("gripper_changes", "keyposes", "neither"),
            Metric("segment_s", "s", "neither"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
        kinds=("keypose", "segment"),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Learn each group's view, its usual speed and the ranges of its grippers."""
        reference = Reference(batches, seed=seed, budget=_REFERENCE_STEPS)
        views = fit_views(reference)
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            meta={
                "views": {group: view.as_dict() for group, view in views.items()},
                "fast": {group: fast(found, views[group]) for group, found in reference.groups.items()},
                "grippers": {group: _ranges(found) for group, found in reference.groups.items()},
            },
        )

    def label(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Labels]:
        """Keyposes and segments of each episode."""
        views = {group: View(**found) for group, found in fit.meta["views"].items()}
        return [self._one(raw, views.get(raw.group), fit.meta) for raw in episodes(batch)]

    def _one(self, raw: RawEpisode, view: View | None, meta: Mapping[str, Any]) -> Labels:
        finite = int(raw.finite.sum()) if raw.problem is None else 0
        reason = raw.problem or (None if view else f"no reference for {raw.group}")
        if reason is None and finite < _MIN_STEPS:
            reason = f"only {finite} finite steps, of {_MIN_STEPS} at least"
        if reason is not None or view is None:
            undefined = Labels.undefined(self.spec.metrics[:-1], reason or "")
            return Labels((), (*undefined.scores, ScoreRow("length", float(len(raw.state)))))
        rows = np.flatnonzero(raw.finite)
        when, period = clock(raw)
        still = self._still(raw, view, when, float(meta["fast"][raw.group]))
        grippers = _sides(raw, meta["grippers"][raw.group])
        steps, why = keyposes(still, grippers[0], self.apart, round(self.rest_s / period))
        labels = [_named(name, step, *grippers) for name, step in zip(why, steps.tolist(), strict=True)]
        at = rows[steps]
        edges = [0, *(at + 1).tolist()]
        edges[-1] = len(raw.state)  # what follows the last finite step belongs to the last segment
        spans = list(zip(edges[:-1], edges[1:], labels, strict=True))
        said = [Annotation("keypose", int(i), int(i) + 1, label) for i, label in zip(at, labels, strict=True)]
        said += [Annotation("segment", start, stop, label) for start, stop, label in spans]
        return Labels(
            said,
            (
                ScoreRow("count", float(len(steps))),
                ScoreRow("stops", float(why.count("stop"))),
                ScoreRow("gripper_changes", float(why.count("gripper")))
                if grippers[0].shape[1]
                else ScoreRow("gripper_changes", None, "undefined", "no dimension is known as a gripper"),
                ScoreRow("segment_s", float(np.median([stop - start for start, stop, _ in spans])) * period),
                ScoreRow("length", float(len(raw.state))),
            ),
        )

    def _still(self, raw: RawEpisode, view: View, when: np.ndarray, usual: float) -> np.ndarray:
        """bool [m]: the arm stands still at each finite step, judged by the way to the next."""
        measured = _measured(raw.dataset)
        if not measured:
            _, position, _, _ = path(raw, view)
            return speeds(when, position) <= self.still * usual
        state = raw.state[raw.finite]
        moved = np.zeros(max(len(state) - 1, 0), bool)
        for dim, unit in measured.items():
            change = np.diff(state[:, dim]) * _UNITS[unit]
            if unit in _ANGLES:
                change = (change + np.pi) % (2 * np.pi) - np.pi  # the short way round
            limit = self.still_rad_s if unit in _ANGLES else self.still_m_s
            moved |= np.abs(change) >= limit * np.diff(when)
        still = ~moved
        return np.append(still, still[-1:])


def _measured(dataset: Dataset) -> dict[int, str]:
    """The unit of every dimension of the state that is of the arm and measured in one that is known."""
    feature = dataset.feature(STATE)
    if feature is None:
        return {}
    other = {dim for part in parts(feature) if part.role in _NOT_ARM for dim in part.components}
    found = {
        dim: finding.value
        for finding in feature.findings
        if finding.kind == "unit" and finding.value in _UNITS and finding.confidence >= CONFIDENT
        for dim in finding.components
    }
    return {dim: unit for dim, unit in sorted(found.items()) if dim not in other}


def _grippers(dataset: Dataset) -> tuple[str, list[int]]:
    """The column that tells of grippers, their state if it is named, and the dimensions of them."""
    for column in (STATE, ACTION):
        feature = dataset.feature(column)
        named = {
            dim for part in (parts(feature) if feature else ()) if part.role == "gripper" for dim in part.components
        }
        if feature is not None:
            named |= {dim for found in feature.findings if found.kind == "gripper" for dim in found.components}
        if named:
            return column, sorted(named)
    return ACTION, []


def _ranges(found: list[RawEpisode]) -> dict[str, Any]:
    """``column`` that tells of the grippers, and ``ranges``: of each the dimension, how far it goes from end to
    end, and 1 where larger opens, -1 where it closes, else 0.
    """
    column, dims = _grippers(found[0].dataset)
    feature = found[0].dataset.feature(column)
    polarity = {
        dim: {"larger_opens": 1, "larger_closes": -1}.get(finding.value, 0)
        for finding in (feature.findings if feature else ())
        if finding.kind == "gripper_polarity" and finding.confidence >= CONFIDENT
        for dim in finding.components
    }
    values = [(raw.action if column == ACTION else raw.state)[raw.finite] for raw in found]
    ranges = []
    for dim in dims:
        low = float(np.median([x[:, dim].min() for x in values]))
        high = float(np.median([x[:, dim].max() for x in values]))
        if high > low:
            ranges.append([dim, high - low, polarity.get(dim, 0)])
    return {"column": column, "ranges": ranges}


def _sides(raw: RawEpisode, grippers: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Which way each gripper went last, int8 [m, g], and the sign of it that opens it, int [g], 0 unknown."""
    values = (raw.action if grippers["column"] == ACTION else raw.state)[raw.finite]
    ranges = grippers["ranges"]
    found = [ways(values[:, int(dim)], _TURN * size) for dim, size, _ in ranges]
    side = np.stack(found, axis=1) if found else np.zeros((len(values), 0), np.int8)
    return side, np.array([opens for *_, opens in ranges], int)


def _named(why: str, step: int, side: np.ndarray, opens: np.ndarray) -> str:
    """The label of a keypose: for a gripper's change whether it opens or closes, where that is known of all."""
    if why != "gripper":
        return why
    changed = np.flatnonzero(side[step] != side[step - 1])
    ways = {int(side[step, g] * opens[g]) for g in changed}
    return {1: "gripper_opens", -1: "gripper_closes"}.get(ways.pop() if len(ways) == 1 else 0, "gripper")
