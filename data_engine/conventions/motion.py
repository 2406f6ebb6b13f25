"""What actions do to the state: how late it answers, how much of it a unit of action moves, and in which frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["Pairs", "frame", "latency", "moved_by", "slopes", "steps_of"]

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]
_LONGEST_S = 1.0  # no robot answers later


def steps_of(x: np.ndarray) -> np.ndarray:
    """The change to the next step: [n - 1, d]."""
    return np.diff(x, axis=0)


def latency(pairs: Pairs, follows: Mapping[int, int], fps: float, *, delta: bool) -> tuple[int, float] | None:
    """``(lag in steps, correlation)``: how much later the state moves as the action asked, or None where nothing shows.

    ``pairs``: (state [n, ds], action [n, da]), finite; ``follows``: action dimension -> state dimension. A lag of 1 is
    a state that is there at the next step. Best mean correlation of velocities over the followed dimensions, up to a
    second; None below 0.35, and where no lag stands out.
    """
    if not follows:
        return None
    acted, states = list(follows), list(follows.values())
    curves = []
    longest = max(1, min(int(_LONGEST_S * fps), min((len(s) for s, _ in pairs), default=0) // 3))
    for lag in range(longest + 1):
        asked, made = [], []
        for state, action in pairs:
            moved = steps_of(state[:, states])
            wanted = action[:-1, acted] if delta else steps_of(action[:, acted])
            asked.append(wanted[: len(wanted) - lag])
            made.append(moved[lag:])
        curves.append(_mean_correlation(np.concatenate(asked), np.concatenate(made)))
    curve = np.array(curves)
    best = int(curve.argmax())
    if curve[best] < 0.35 or curve[best] - curve.min() < 0.1 or (best == longest and longest > 1):
        return None
    return best + delta, float(curve[best])


def moved_by(pairs: Pairs, least: float = 0.6) -> dict[int, int]:
    """Action dimension -> the state dimension that moves with it most, within three steps, where they correlate."""
    best: dict[int, tuple[float, int]] = {}
    for lag in range(4):
        asked = np.concatenate([action[: max(len(action) - 1 - lag, 0)] for _, action in pairs])
        made = np.concatenate([steps_of(state)[lag:] for state, _ in pairs])
        asked, made = asked - asked.mean(axis=0), made - made.mean(axis=0)
        size = np.sqrt((asked * asked).sum(axis=0)[:, None] * (made * made).sum(axis=0))
        fits = np.divide(asked.T @ made, size, out=np.zeros_like(size), where=size > 1e-12)
        for dim, row in enumerate(fits):
            best[dim] = max(best.get(dim, (0.0, 0)), (float(row.max()), int(row.argmax())))
    return {dim: state for dim, (fit, state) in best.items() if fit > least}


def slopes(pairs: Pairs, follows: Mapping[int, int], *, delta: bool, least: float = 0.9) -> list[float]:
    """Of each followed dimension: action over state as a ratio of spreads, where they correlate by ``least``.

    For a delta action: the summed action over the way that the state went.
    """
    found = []
    for acted, moved in follows.items():
        wanted: list[np.ndarray] = []
        made: list[np.ndarray] = []
        for state, action in pairs:
            if delta:
                wanted.append(np.cumsum(action[:-1, acted]) - action[0, acted])
                made.append(state[1:, moved] - state[1, moved])
            else:
                wanted.append(action[:, acted])
                made.append(state[:, moved])
        x, y = np.concatenate(made), np.concatenate(wanted)
        x, y = x - x.mean(), y - y.mean()
        size = np.sqrt((x @ x) * (y @ y))
        if size > 1e-12 and x @ y / size > least:
            found.append(float(np.sqrt((y @ y) / (x @ x))))
    return found


def frame(
    moved: Sequence[np.ndarray], turned: Sequence[np.ndarray], asked: Sequence[np.ndarray]
) -> tuple[str, str] | None:
    """``(base or end_effector, evidence)`` of commanded translations, or None where the two do not come apart.

    ``moved`` [n, 3]: how the end effector moved in the base frame; ``turned`` [n, 3, 3]: its rotation; ``asked``
    [n, 3]: the command.
    """
    base = _mean_correlation(np.concatenate(asked), np.concatenate(moved))
    inside = [np.einsum("nji,nj->ni", r, m) for r, m in zip(turned, moved, strict=True)]
    tool = _mean_correlation(np.concatenate(asked), np.concatenate(inside))
    if max(base, tool) < 0.5 or abs(base - tool) < 0.2:
        return None
    name, value = ("base", base) if base > tool else ("end_effector", tool)
    return (
        name,
        f"commands follow the motion in that frame (correlation {value:.2f}, in the other {min(base, tool):.2f})",
    )


def _mean_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over columns of the Pearson correlation of ``a`` and ``b`` [n, d]; 0 where nothing moves."""
    if len(a) < 8:
        return 0.0
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    moving = size > 1e-12
    return float(((a * b).sum(axis=0)[moving] / size[moving]).mean()) if moving.any() else 0.0
