"""The view: states and actions in the coordinates that measures are taken in, one view per group of like robots.

Raw columns mislead: an angle that wraps reads as a teleport, an idle dimension drowns the others, an absolute target
says more about where the robot is than about what it does. A view is learned from a reference set and is plain JSON:

- angles (they wrap in at least two episodes, or are named so and fill half a turn) become sin and cos; runs of four
  dimensions of norm 1 are quaternions and become the first two columns of their rotation matrix (rot6d, Zhou et al.
  2019), which is quadratic in the quaternion and so needs no sign; dimensions of at most 8 values (grippers, modes) are
  discrete, spread over [-1, 1];
- dimensions that vary in no more than one episode are dropped;
- the rest is (x - median) / scale with scale = max(IQR / 1.349, (q95 - q5) / 6), so that no single episode moves it;
- an action dimension that is the absolute target of a state dimension (it stays within a quarter of that dimension's
  spread and follows it, in the median episode) is replaced by action - state;
- the velocity of each continuous state coordinate is appended, per second: with relative actions it tells a late action
  from a timely one. It weighs ``VELOCITY`` of the position;
- coordinates are cut at +-``BOUND`` and each block divided by the root of its width, so that state and action are of
  one size whatever their widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_engine.conventions.rotations import LEVELS, evenly, quaternions
from data_engine.conventions.rotations import angles as angles_of
from data_engine.model import ACTION, STATE
from data_engine.reference import RawEpisode, Reference

__all__ = ["BOUND", "VELOCITY", "EpisodeView", "View", "fit_views"]

BOUND = 10.0
VELOCITY = 0.5
Coordinate = tuple[int, float, float, bool]  # index after unfolding, centre, scale, discrete
_ANGLE_NAMES = ("angle", "theta", "yaw", "heading", "roll", "pitch")


@dataclass(frozen=True)
class EpisodeView:
    """One episode in the view. Only its valid steps have rows.

    ``state`` float32 [m, ds]: positions, then velocities. ``action`` float32 [m, da]. ``valid`` bool [n]: the recorded
    steps with finite state and action, m of them. ``outside``: the share of them with an action coordinate more than
    three scales from the median. ``positions``: how many columns of ``state`` are positions.
    """

    content_hash: str
    motion_hash: str
    group: str
    task: str
    state: np.ndarray
    action: np.ndarray
    valid: np.ndarray
    outside: float
    positions: int


@dataclass(frozen=True)
class View:
    """How one group's columns are turned into coordinates. Every field is plain JSON (``as_dict``, ``View(**d)``)."""

    angles: Mapping[str, Sequence[tuple[int, float]]]  # by column: dimension and period
    quaternions: Mapping[str, Sequence[int]]  # first dimension of each
    relative: Sequence[tuple[int, int]]  # action dimension, the state dimension it is the target of
    position: Sequence[Coordinate]
    velocity: Sequence[Coordinate]
    action: Sequence[Coordinate]

    def as_dict(self) -> dict[str, Any]:
        """The view as plain JSON values."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    def measure(self, episode: RawEpisode) -> EpisodeView:
        """``episode`` in this view's coordinates. Its non-finite steps are left out, never filled."""
        valid = episode.finite
        state, action = self.unfolded(episode)
        state, action = np.where(valid[:, None], state, 0.0), np.where(valid[:, None], action, 0.0)
        speed = _velocity(state, valid, episode.dataset.fps)
        position, scaled = _scaled(state[valid], self.position), _scaled(action[valid], self.action)
        outside = (np.abs(scaled) > 3).any(axis=1) if scaled.size else np.zeros(len(scaled), bool)
        blocks = [_block(position), VELOCITY * _block(_scaled(speed[valid], self.velocity))]
        return EpisodeView(
            content_hash=episode.content_hash,
            motion_hash=episode.motion_hash,
            group=episode.group,
            task=episode.task,
            state=np.concatenate(blocks, axis=1).astype(np.float32),
            action=_block(scaled).astype(np.float32),
            valid=valid,
            outside=float(outside.mean()) if len(outside) else 0.0,
            positions=position.shape[1],
        )

    def unfolded(self, episode: RawEpisode) -> tuple[np.ndarray, np.ndarray]:
        """State and action with angles, quaternions and relative actions resolved, in raw units."""
        periods = dict(self.angles[STATE])
        action = episode.action.copy()
        for target, source in self.relative:
            action[:, target] -= episode.state[:, source]
            if source in periods:
                half = periods[source] / 2
                action[:, target] = (action[:, target] + half) % (2 * half) - half
        taken = {target for target, _ in self.relative}
        angles = [(dim, period) for dim, period in self.angles[ACTION] if dim not in taken]
        return (
            _unfold(episode.state, self.angles[STATE], self.quaternions[STATE]),
            _unfold(action, angles, self.quaternions[ACTION]),
        )


def fit_views(reference: Reference) -> dict[str, View]:
    """The view of each group of ``reference``."""
    return {group: _fit(found) for group, found in sorted(reference.groups.items())}


def _fit(found: Sequence[RawEpisode]) -> View:
    """The view of one group's episodes (each with at least one finite step), whatever their order."""
    found = sorted(found, key=lambda episode: episode.motion_hash)
    states = [evenly(episode.state[episode.finite]) for episode in found]
    actions = [evenly(episode.action[episode.finite]) for episode in found]
    angles = {
        STATE: angles_of([episode.state[episode.finite] for episode in found], _hints(found, STATE)),
        ACTION: angles_of([episode.action[episode.finite] for episode in found], _hints(found, ACTION)),
    }
    bare = View(
        angles=angles,
        quaternions={STATE: quaternions(states), ACTION: quaternions(actions)},
        relative=_targets(states, actions, dict(angles[STATE])),
        position=(),
        velocity=(),
        action=(),
    )
    positions, speeds, moves = [], [], []
    for episode in found:
        valid = episode.finite
        state, action = bare.unfolded(episode)
        state = np.where(valid[:, None], state, 0.0)
        positions.append(evenly(state[valid]))
        speeds.append(evenly(_velocity(state, valid, episode.dataset.fps)[valid]))
        moves.append(evenly(action[valid]))
    position = _coordinates(positions)
    discrete = {index for index, _, _, levels in position if levels}
    return replace(
        bare,
        position=position,
        velocity=[c for c in _coordinates(speeds) if c[0] not in discrete],
        action=_coordinates(moves),
    )


def _hints(found: Sequence[RawEpisode], column: str) -> set[int]:
    """Dimensions that a source names as angles or gives in degrees or radians."""
    hinted: set[int] = set()
    for feature in {episode.dataset.feature(column) for episode in found}:
        if feature is None:
            continue
        angular = (feature.unit or "").lower().startswith(("rad", "deg"))
        names = feature.components or ("",) * feature.size
        hinted |= {i for i, name in enumerate(names) if angular or any(a in name.lower() for a in _ANGLE_NAMES)}
    return hinted


def _targets(
    states: Sequence[np.ndarray], actions: Sequence[np.ndarray], periods: Mapping[int, float]
) -> list[tuple[int, int]]:
    """(action dimension, state dimension) where the action is an absolute target of the state, judged in the median
    episode so that a few wrong ones (swapped, shuffled) cannot hide it."""
    rows = np.concatenate(states)
    q25, q75 = np.percentile(rows, [25, 75], axis=0)
    spread = q75 - q25
    result = []
    for target in range(actions[0].shape[1]):
        offsets, follows = [], []
        for state, action in zip(states, actions, strict=True):
            offset = action[:, target, None] - state
            for dim, period in periods.items():
                offset[:, dim] = (offset[:, dim] + period / 2) % period - period / 2
            offsets.append(np.median(np.abs(offset), axis=0))
            follows.append(_correlation(action[:, target], state))
        offset, follow = np.median(offsets, axis=0), np.median(follows, axis=0)
        near = (offset < 0.25 * spread) & ((follow > 0.8) | np.isin(np.arange(len(spread)), list(periods)))
        if near.any():
            ratio = np.where(near, offset / np.where(near, spread, 1.0), np.inf)
            result.append((target, int(ratio.argmin())))
    return result


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of ``x`` [n] with each column of ``y`` [n, d]; 0 where either does not vary."""
    x, y = x - x.mean(), y - y.mean(axis=0)
    size = np.sqrt((x @ x) * (y * y).sum(axis=0))
    return np.where(size > 1e-12, x @ y / np.maximum(size, 1e-12), 0.0)


def _coordinates(found: Sequence[np.ndarray]) -> list[Coordinate]:
    """The coordinates that are kept, with centre and scale, from the sampled rows of each episode."""
    rows = np.concatenate(found)
    centre = np.median(rows, axis=0)
    q5, q25, q75, q95 = np.percentile(rows, [5, 25, 75, 95], axis=0)
    scale = np.maximum((q75 - q25) / 1.349, (q95 - q5) / 6)
    reach = np.array([np.abs(x - centre).max(axis=0) for x in found])
    moved = reach > 1e-6 * np.maximum(1.0, np.abs(centre))
    alone = 1 if len(found) >= 4 else 0
    few = np.array([_distinct(x) for x in found]) <= LEVELS
    kept: list[Coordinate] = []
    for dim in np.flatnonzero(moved.sum(axis=0) > alone):
        levels = _levels([x[:, dim] for x in found], few[:, dim])
        if levels is not None:
            kept.append((int(dim), float(levels.mean()), float(np.ptp(levels) / 2), True))
            continue
        least = np.median(reach[moved[:, dim], dim]) / 3  # a coordinate that rests almost always
        width = scale[dim] if scale[dim] > 1e-6 * least else least
        kept.append((int(dim), float(centre[dim]), float(width), False))
    return kept


def _distinct(x: np.ndarray) -> np.ndarray:
    """How many values each column of ``x`` [n, d], n at least 1, has: int64 [d]."""
    ordered = np.sort(x, axis=0)
    return 1 + (ordered[1:] != ordered[:-1]).sum(axis=0)


def _levels(found: Sequence[np.ndarray], few: np.ndarray) -> np.ndarray | None:
    """[lowest, highest] of a coordinate that is discrete: of at most 8 values in all but a tenth of the episodes, those
    that are ``few`` [E], and in those together. None where it is not."""
    if few.sum() < 0.9 * len(found):
        return None
    values = np.unique(np.concatenate([x for x, discrete in zip(found, few, strict=True) if discrete]))
    return values[[0, -1]] if 2 <= len(values) <= LEVELS else None


@np.errstate(invalid="ignore")  # of what is infinite nobody asks: steps that are not finite are left out
def _unfold(x: np.ndarray, angles: Sequence[tuple[int, float]], quaternions: Sequence[int]) -> np.ndarray:
    """``x`` with sin and cos for its angles and rot6d for its quaternions, the rest as it is, in the order of ``x``."""
    periods, starts = dict(angles), set(quaternions)
    covered = {start + i for start in starts for i in range(4)}
    columns: list[np.ndarray] = []
    for dim in range(x.shape[1]):
        if dim in starts:
            columns.extend(_rot6d(x[:, dim : dim + 4]).T)
        elif dim in covered:
            continue
        elif dim in periods:
            turn = x[:, dim] * (2 * np.pi / periods[dim])
            columns.extend((np.sin(turn), np.cos(turn)))
        else:
            columns.append(x[:, dim])
    return np.stack(columns, axis=1) if columns else np.empty((len(x), 0))


def _rot6d(q: np.ndarray) -> np.ndarray:
    """The first two columns of the rotation matrix of quaternions [n, 4]: one to one up to sign, in either component
    order (the other order only names the axes differently)."""
    w, x, y, z = q.T
    first = (1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w))
    second = (2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w))
    return np.stack(first + second, axis=1)


def _velocity(state: np.ndarray, valid: np.ndarray, fps: float) -> np.ndarray:
    """Change since the step before, per second; 0 where there is no valid step before."""
    speed = np.zeros_like(state)
    speed[1:] = (state[1:] - state[:-1]) * fps
    speed[1:][~(valid[1:] & valid[:-1])] = 0.0
    return speed


def _scaled(x: np.ndarray, kept: Sequence[Coordinate]) -> np.ndarray:
    """The kept coordinates of ``x``, centred and scaled, cut at ``BOUND``."""
    dims = [index for index, *_ in kept]
    centre = np.array([c[1] for c in kept], dtype=np.float64)
    scale = np.array([c[2] for c in kept], dtype=np.float64)
    return np.clip((x[:, dims] - centre) / scale, -BOUND, BOUND)


def _block(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(max(x.shape[1], 1))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
