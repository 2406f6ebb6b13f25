"""What one camera shows in one episode, from a few of its frames: stretches that are black, frozen or do not decode.

A few samples spread over the episode are looked at. Where a bad one lies beside a sound one, the border between them is
found by halving, to the step; a sound camera costs its samples and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from data_engine.errors import RequestError
from data_engine.outages import is_outage

__all__ = ["BLACK", "FROZEN", "UNDECODABLE", "Footage"]

BLACK, FROZEN, UNDECODABLE = "black_frames", "frozen_frames", "undecodable_frames"

_DARK = 24  # of 255: a limited-range black decodes to 16, sensor noise and coding add a little
_OFF = 20  # of 255: a still in H.264 at its default quality differs by 19 at most within a group of pictures ...
_MEAN_OFF = 0.5  # ... by 0.3 in the mean, a live camera before a scene at rest by 1.3 to 3 (in such a group 0.2)
_FAR_OFF = 40  # of 255: what the same still differs by at most where a keyframe lies between
_FEW = 2e-4  # of the values that may lie above any of these; an arm that moves far away covers more than that
_MOVED = 0.1  # of a dimension's usual range: what counts as moved ...
_MOST = 0.6  # ... and of the dimensions of state or action that have to: an arm at rest before its own camera is sound
_SOME = 0.25  # ... and of those of the state where the action makes the most: objects at rest are dimensions of it too
_PIECE = 16  # frames decoded at once
_PIXELS = 1 << 19  # kept of a frame: of a larger one every second or third row and column


class Footage:
    """One camera of one episode of n steps.

    ``frames``: uint8 [len(times), h, w, 3] at seconds. ``times``: float64 [n], when the camera saw each step, NaN: that
    step is not looked at. ``motion``: float64 [n, ds] and [n, da], state and action in units of the usual range of each
    dimension; None where nothing is known of motion, and nothing is frozen then.
    """

    def __init__(
        self,
        frames: Callable[[list[float]], np.ndarray],
        times: np.ndarray,
        motion: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        self._frames, self._times, self._motion = frames, times, motion
        self._steps = np.flatnonzero(np.isfinite(times))
        self._seen: dict[int, np.ndarray | str] = {}  # by place among these steps: a picture, or what is wrong with it

    def defects(self, looks: int, least: int) -> Iterator[tuple[int, int, str]]:
        """Stretches [start, stop) of steps, and what is wrong with them.

        ``looks``: samples, the first and last step among them. What lies between two sound samples is not seen. A
        stretch is ``FROZEN`` where at least three pictures over ``least`` steps are the same and the robot moves
        between them: a camera that sees a scene at rest is in order.

        Decodes ``looks`` frames and, of a camera with defects, one more between any two samples of a stretch and
        log2(n / looks) at either end of it. Raises ``RequestError`` where there is no such camera, and ``Outage`` where
        a store did not answer.
        """
        last = len(self._steps) - 1
        if last < 0 or looks < 1:
            return
        samples = np.unique(np.linspace(0, last, looks).round().astype(int)).tolist()
        self._look(samples)
        suspects = list(self._runs(samples))
        pairs = (pair for _, i, j in suspects for pair in pairwise(samples[i : j + 1]))
        finer = sorted({*samples, *(self._farthest(*pair) for pair in pairs)})
        covered = 0
        for wrong, i, j in self._runs(finer) if suspects else ():
            seen = finer[i : j + 1]
            known = self._steps[seen[0]] < covered  # a keyframe parted the runs of one stretch
            if wrong == FROZEN and (known or len(seen) < 3 or not self._moves(seen)):
                continue
            start, stop = self._end(finer, i, -1), self._end(finer, j, 1) + 1
            if wrong != FROZEN or stop - start >= least:
                yield start, stop, wrong
                covered = stop

    def _runs(self, samples: Sequence[int]) -> Iterator[tuple[str, int, int]]:
        """(what is wrong, i, j): ``samples[i : j + 1]`` all have it, or show one picture while the state moves."""
        i = 0
        while i < len(samples):
            j = i
            while j + 1 < len(samples) and self._same(samples[j], samples[j + 1]):
                j += 1
            shown = self._at(samples[i])
            if isinstance(shown, str):
                yield shown, i, j
            elif j > i and self._moves(range(samples[i], samples[j] + 1)):
                yield FROZEN, i, j
            i = j + 1

    def _end(self, samples: Sequence[int], i: int, towards: int) -> int:
        """The last step ``towards`` (-1 or 1) of ``samples[i]`` that is like it: past samples, then by halving."""
        like = samples[i]
        while 0 <= i + towards < len(samples) and self._same(like, samples[i + towards], closely=False):
            i += towards
        if not 0 <= i + towards < len(samples):
            return 0 if towards < 0 else len(self._times) - 1
        inside, outside = samples[i], samples[i + towards]
        while abs(outside - inside) > 1:
            middle = (inside + outside) // 2
            if self._same(like, middle, closely=False):
                inside = middle
            else:
                outside = middle
        return int(self._steps[inside])

    def _moves(self, places: Sequence[int]) -> bool:
        """Whether the robot moves: by its state at ``places``, and by the actions from the first to the last."""
        if self._motion is None:
            return False
        steps = self._steps[places]
        state, action = self._motion
        moved, told = _moved(state[steps]), _moved(action[steps[0] : steps[-1] + 1])
        return moved >= _MOST or (moved >= _SOME and told >= _MOST)

    def _farthest(self, a: int, b: int) -> int:
        """The place between ``a`` and ``b`` whose state is farthest from theirs: a live camera would show it there."""
        if self._motion is None or b - a < 2:
            return (a + b) // 2
        there = np.nan_to_num(self._motion[0][self._steps[a : b + 1]])
        away = np.minimum(*(np.abs(there - there[end]).sum(axis=1) for end in (0, -1)))
        return a + 1 + int(away[1:-1].argmax())

    def _same(self, a: int, b: int, closely: bool = True) -> bool:
        """Whether two places have the same wrong with them, or show one picture, apart from what coding makes of it.

        ``closely``: told from a live camera's of a scene at rest as well, which coding of other frames hides.
        """
        one, other = self._at(a), self._at(b)
        if isinstance(one, str) or isinstance(other, str):
            return isinstance(one, str) and isinstance(other, str) and one == other
        if one.shape != other.shape:
            return False
        off = np.maximum(one, other) - np.minimum(one, other)
        if not closely:
            return bool(np.mean(off > _FAR_OFF) <= _FEW)
        return bool(off.mean() <= _MEAN_OFF and np.mean(off > _OFF) <= _FEW)

    def _at(self, place: int) -> np.ndarray | str:
        if place not in self._seen:
            self._look([place])
        return self._seen[place]

    def _look(self, places: Sequence[int]) -> None:
        """Decode what is at ``places``, together where that works and one by one where it does not."""
        for begin in range(0, len(places), _PIECE):
            piece = places[begin : begin + _PIECE]
            shown = self._decode(piece)
            for i, place in enumerate(piece):
                one = shown[i : i + 1] if shown is not None else self._decode([place])
                self._seen[place] = UNDECODABLE if one is None or not len(one) else _judged(one[0])

    def _decode(self, places: Sequence[int]) -> np.ndarray | None:
        try:
            return np.asarray(self._frames(self._times[self._steps[places]].tolist()))
        except (RequestError, MemoryError):
            raise
        except Exception as error:  # whatever a decoder raises on a broken stream is the finding
            if is_outage(error):
                raise
            return None


def _moved(values: np.ndarray) -> float:
    """The share of the dimensions of ``values`` [n, d], in usual ranges, that differ by much somewhere."""
    return float(np.mean(np.fmax.reduce(values) - np.fmin.reduce(values) >= _MOVED)) if values.shape[1] else 0.0


def _judged(picture: np.ndarray) -> np.ndarray | str:
    """``BLACK``, or a copy of ``picture`` [h, w, 3] that leaves rows and columns of a large one out."""
    if np.mean(picture > _DARK) <= _FEW:
        return BLACK
    every = int(np.ceil(np.sqrt(picture.shape[0] * picture.shape[1] / _PIXELS)))
    return np.ascontiguousarray(picture[::every, ::every])
