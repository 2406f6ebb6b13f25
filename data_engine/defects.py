"""Lies and defects that an ingest sees in passing: a code for programs, a line for people. None keeps an episode out.

What an episode cannot be read for is quarantined instead; what a recording is worth is for the scorers to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_engine.model import ACTION, STATE, Feature

__all__ = ["CODES", "Defect", "of_features", "of_frames", "of_times"]

CODES = {
    "episodes_absent": "the source declares episodes that are not there",
    "steps_differ": "the source declares another number of steps than its episodes hold",
    "video_elsewhere": "a video lies elsewhere than declared",
    "camera_absent": "a camera is declared and none of its videos is there",
    "declared_differs": "a video's codec, size, rate, pixel format or length is not what the source declares",
    "video_longer": "an episode's span of video holds more frames than the episode has steps",
    "frames_unclaimed": "a video file holds frames that belong to no episode: discarded takes left inside",
    "camera_black": "every frame looked at is black",
    "camera_frozen": "every frame looked at is the same picture while the state moves",
    "action_short": "the action has fewer joints than the state",
    "clock_back": "timestamps do not increase",
    "clock_differs": "timestamps advance at another rate than that of the dataset",
    "duplicate": "the same recording is there already, under another key or in another dataset",
}
"""What each code means."""

_BLACK = 24  # of 255: a limited-range black decodes to 16, sensor noise and coding add a little
_SAME = 40  # of 255: more than coding noise between two pictures of one still (36 measured, AV1 crf 30) ...
_FEW = 2e-4  # ... and of the pixels that may differ by more; a gripper that moves far away covers more than that


class Defect(NamedTuple):
    """One of :data:`CODES`, and what was seen in one line."""

    code: str
    what: str


def of_features(features: Sequence[Feature]) -> list[Defect]:
    """What the declared columns alone show: an action that lacks joints the state has. Widths alone prove nothing.

    Both need component names; an action of other names altogether (a pose, say) is no defect.
    """
    by_name = {feature.name: feature.components for feature in features}
    state, action = by_name.get(STATE), by_name.get(ACTION)
    if not state or not action or not set(action) < set(state):
        return []
    lacking = [name for name in state if name not in action]
    if len(lacking) > max(1, len(action) // 3):  # velocities or objects beside the joints, not joints that were lost
        return []
    what = f"action has {len(action)} of the state's {len(state)} components; it lacks {', '.join(lacking)}"
    return [Defect("action_short", what)]


def of_frames(frames: np.ndarray, moving: bool) -> str | None:
    """``camera_black``, ``camera_frozen`` or None for the frames of one episode that were looked at.

    ``frames``: uint8 [n, h, w, 3], spread over the episode. ``moving``: whether the state changes between them: a still
    camera on a robot at rest is in order. A frozen camera needs three frames to be called that.
    """
    if np.percentile(frames.reshape(len(frames), -1), 99, axis=1).max() <= _BLACK:
        return "camera_black"
    if moving and len(frames) >= 3:
        apart = np.abs(frames[1:].astype(np.int16) - frames[0].astype(np.int16)).max(axis=3) > _SAME
        if apart.mean(axis=(1, 2)).max() <= _FEW:
            return "camera_frozen"
    return None


def of_times(times: np.ndarray, offsets: np.ndarray, fps: float) -> list[list[Defect]]:
    """What the clocks of episodes show, whose ``times`` float64 [n] in seconds lie behind one another.

    Episode i is ``[offsets[i], offsets[i + 1])``. Of a clock that goes on, more than half of the steps must take within
    a half of ``1 / fps``: recorders pause and jitter, and a clock in other units or of another rate does neither.
    """
    gaps = np.diff(times)
    back, off = ~(gaps > 0), ~(np.abs(gaps * fps - 1) < 0.5)  # NaN is both
    starts, stops = offsets[:-1], offsets[1:] - 1
    backs, offs = (np.diff(np.append(0, np.cumsum(bad))[[starts, stops]], axis=0)[0] for bad in (back, off))
    found: list[list[Defect]] = [[] for _ in starts]
    for i in np.flatnonzero((stops > starts) & ((backs > 0) | (2 * offs > stops - starts))).tolist():
        if backs[i]:
            found[i].append(Defect("clock_back", "timestamps stand still, go back or are missing"))
        else:
            usual = float(np.median(gaps[starts[i] : stops[i]]))
            found[i].append(
                Defect("clock_differs", f"a step takes {usual:.3g} s, at the rate of the dataset {1 / fps:.3g} s")
            )
    return found
