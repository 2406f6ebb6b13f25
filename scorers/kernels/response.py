"""How motion responds to action: an autoregression of each state coordinate with the recorded actions as its input.

Motion is what a coordinate changes by until the next step. It is predicted twice, by ridge regression: from the
coordinate's own past alone, and from that and the last actions (ARX; Ljung, "System Identification", 1987). What the
first leaves is the surprise; the difference of the two predictions is what the actions call for. An action that causes
the motion calls for the surprise (Granger 1969), and how far it does is their concordance (Lin 1989), about zero:

    2 <surprise, call> / (<surprise, surprise> + <call, call>)

It is 1 where they are the same and 0 where they have nothing to do with each other, or one is far larger than the
other; it is negative where they are opposite.

Motion may bend with position and command, as that of a gripper that stops at its ends or at an object does: a cubic in
the two (``curved``) is part of the regression. A small neural network in its place told flipped grippers no better.

What a held command does, a gripper's say, shows over many steps: in one, a slow actuator's own past foretells nearly
all of its motion. So it is asked where the command has brought a coordinate some steps later (``held_rows``). There
position and command only add, as they do in a servo and in whatever is driven against a stop: a product of the two
could learn that a command which is given in vain has none to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

__all__ = [
    "PAST", "TAPS", "Model", "Response", "Rows", "concordance", "curved", "fit", "held_rows", "respond", "rows",
]  # fmt: skip

TAPS = 4  # actions looked at: this step's and those before it
PAST = 2  # motions of the coordinate's own past
_RIDGE = 1e-6  # of the mean square of a standardised feature


@dataclass(frozen=True)
class Rows:
    """The steps of one or more episodes that can be predicted, m of them.

    ``step`` int64 [m]. ``action`` float64 [m, ``TAPS`` * da]: this step's action, then those before; or [m, da].
    ``own`` [m, ds, k]: each coordinate's position and its last motions, and what :func:`curved` adds. ``motion`` [m,
    ds]: what is predicted. ``alone``: how many of ``own`` know nothing of the action.
    """

    step: np.ndarray
    action: np.ndarray
    own: np.ndarray
    motion: np.ndarray
    alone: int = PAST + 1

    def __len__(self) -> int:
        return len(self.step)

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """The rows of several episodes, one after the other."""
        columns = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("step", "action", "own", "motion")
        )
        return Rows(*columns, alone=parts[0].alone)


@dataclass(frozen=True)
class Model:
    """Weights [ds, features] and intercepts [ds] of the prediction with actions and of that without, float64.

    Features are the action taps, then the coordinate's own; without actions, the first of its own.
    """

    weight: np.ndarray
    intercept: np.ndarray
    own_weight: np.ndarray
    own_intercept: np.ndarray


def rows(state: np.ndarray, action: np.ndarray, pace: np.ndarray, shift: int = 0) -> Rows:
    """The predictable steps of one episode: ``state`` [n, ds] and ``action`` [n, da], float64, missing as NaN.

    ``pace`` [n - 1] is what the change to the next step is multiplied with to be per usual period, NaN across a gap.
    ``shift``: the actions are taken from so many steps later (earlier where negative). A step is left out where
    anything that it needs is missing; nothing is filled.
    """
    n = len(state)
    motion = np.diff(state, axis=0) * pace[:, None]
    step = np.arange(max(PAST, TAPS - 1 - shift, 0), min(n - 1, n - shift))
    taken = step[:, None] + shift - np.arange(TAPS)
    before = np.stack([state[step], *(motion[step - back] for back in range(1, PAST + 1))], axis=2)
    acted = action[taken].reshape(len(step), TAPS * action.shape[1])
    known = (
        np.isfinite(acted).all(axis=1) & np.isfinite(before).all(axis=(1, 2)) & np.isfinite(motion[step]).all(axis=1)
    )
    return Rows(step[known], acted[known], before[known], motion[step[known]])


def held_rows(state: np.ndarray, action: np.ndarray, pace: np.ndarray, ahead: int) -> Rows:
    """The steps after which ``ahead`` more are known: their motion [m, ds] is what changes over all of those, their
    action [m, da] the mean of what is commanded meanwhile. The rest is as in :func:`rows`."""
    n = len(state)
    motion = np.diff(state, axis=0) * pace[:, None]
    step = np.arange(PAST, max(n - ahead, PAST))
    if not len(step):
        return Rows(step, *(np.empty((0, *shape)) for shape in ((action.shape[1],), (state.shape[1], PAST + 1))),
                    np.empty((0, state.shape[1])))  # fmt: skip
    meanwhile = sliding_window_view(action, ahead, axis=0).mean(axis=-1)[step]
    gone = sliding_window_view(motion, ahead, axis=0).sum(axis=-1)[step]
    before = np.stack([state[step], *(motion[step - back] for back in range(1, PAST + 1))], axis=2)
    known = np.isfinite(meanwhile).all(axis=1) & np.isfinite(before).all(axis=(1, 2)) & np.isfinite(gone).all(axis=1)
    return Rows(step[known], meanwhile[known], before[known], gone[known])


def curved(found: Rows, command: np.ndarray, centre: np.ndarray, width: np.ndarray) -> Rows:
    """``found`` with a cubic in x = (position - ``centre``) / ``width``, cut at +-3, and this step's action c.

    ``command`` int64 [ds] says which action dimension is a coordinate's own. What is added: x^2, x^3; c^2, c^3, c x,
    c x^2, c^2 x.
    """
    x = np.clip((found.own[:, :, 0] - centre) / width, -3.0, 3.0)
    c = found.action[:, command]
    xx, cc = x * x, c * c
    bends = np.stack([xx, xx * x, cc, cc * c, c * x, c * xx, cc * x], axis=2)
    return replace(found, own=np.concatenate([found.own, bends], axis=2), alone=found.alone + 2)


def fit(found: Rows, folds: np.ndarray | None = None, count: int = 0, device: str = "cpu") -> list[Model]:
    """Ridge regression of motion on ``found`` by the normal equations, in float64.

    With ``folds`` [m], whole numbers below ``count``, as many models follow the one of all rows: number 1 + k has not
    seen fold k. Features are standardised over all rows and constant ones ignored. O(m ds p) to O(m p^2) of p features.
    """
    h, own, y = (torch.from_numpy(x).to(device) for x in (found.action, found.own, found.motion))
    (h, centre, scale), (own, own_centre, own_scale) = _standard(h), _standard(own)
    q, ds = h.shape[1], y.shape[1]
    own_part = slice(q, q + found.alone)
    centre, scale = (torch.cat([x.expand(ds, q), o], dim=1) for x, o in ((centre, own_centre), (scale, own_scale)))
    if folds is None:
        parts = [_moments(h, own, y)]
    else:
        some = [torch.from_numpy(np.flatnonzero(folds == k)).to(device) for k in range(count)]
        parts = [_moments(h[rows], own[rows], y[rows]) for rows in some]
    total = _Moments(*(torch.stack(column).sum(0) for column in zip(*parts, strict=True)))
    kept = [total, *(total.less(part) for part in parts[:count])]
    models = []
    for moments in kept:
        weight, intercept = moments.solve(slice(0, None))
        alone, alone_intercept = moments.solve(own_part)
        weight, alone = weight / scale, alone / scale[:, own_part]
        found_here = (
            weight,
            intercept - (weight * centre).sum(1),
            alone,
            alone_intercept - (alone * centre[:, own_part]).sum(1),
        )
        models.append(Model(*(x.cpu().numpy() for x in found_here)))
    return models


class Response(NamedTuple):
    """What a model says of some rows, float64 [m, ds] each: the motion that the coordinate's own past does not explain,
    what the actions call for of it, the action terms of the prediction alone (a part of the call), and all the motion.
    """

    surprise: np.ndarray
    call: np.ndarray
    drive: np.ndarray
    motion: np.ndarray

    @property
    def left(self) -> np.ndarray:
        """The motion that neither past nor actions explain."""
        return self.surprise - self.call


def respond(found: Rows, model: Model, device: str = "cpu") -> Response:
    """What ``model`` says of ``found``."""
    h, own, y = (torch.from_numpy(x).to(device) for x in (found.action, found.own, found.motion))
    weight, intercept, alone, alone_intercept = (
        torch.from_numpy(x).to(device) for x in (model.weight, model.intercept, model.own_weight, model.own_intercept)
    )
    q = h.shape[1]
    k = found.alone
    without = (own[:, :, :k] * alone).sum(2) + alone_intercept
    drive = h @ weight[:, :q].T + (own[:, :, k:] * weight[:, q + k :]).sum(2)
    call = drive + (own[:, :, :k] * weight[:, q : q + k]).sum(2) + intercept - without
    return Response(*(x.cpu().numpy() for x in (y - without, call, drive, y)))


def concordance(surprise: np.ndarray, call: np.ndarray) -> np.ndarray:
    """[ds] of [m, ds]: 1 the same, 0 unrelated, -1 opposite; NaN where both are zero."""
    size = (surprise**2).sum(axis=0) + (call**2).sum(axis=0)
    return np.where(size > 0, 2 * (surprise * call).sum(axis=0) / np.where(size > 0, size, 1.0), np.nan)


def _standard(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``x`` standardised over rows, and by what mean and deviation; infinity for a constant, so that it counts for
    nothing."""
    centre = x.mean(0)
    x = x - centre
    deviation = torch.linalg.vector_norm(x, dim=0) / len(x) ** 0.5
    scale = torch.where(deviation > 1e-9 * (1 + centre.abs()), deviation, torch.inf)
    return x.div_(scale), centre, scale


class _Moments(NamedTuple):
    """Sums over rows for each coordinate: of 1, features [ds, p], their products [ds, p, p], the motion [ds], and its
    products with the features [ds, p]."""

    count: torch.Tensor
    features: torch.Tensor
    gram: torch.Tensor
    motion: torch.Tensor
    product: torch.Tensor

    def less(self, part: _Moments) -> _Moments:
        """The sums without the rows of ``part``."""
        return _Moments(*(all_rows - some for all_rows, some in zip(self, part, strict=True)))

    def solve(self, some: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Ridge weights [ds, p] of ``some`` features, and the intercept [ds]. What does not vary gets no weight."""
        mean, motion = self.features[:, some] / self.count, self.motion / self.count
        gram = self.gram[:, some, some] - self.count * mean[:, :, None] * mean[:, None]
        product = self.product[:, some] - self.count * mean * motion[:, None]
        ridge = torch.full_like(mean, _RIDGE) * self.count + torch.where(gram.diagonal(dim1=1, dim2=2) > 0, 0.0, 1.0)
        weight = torch.linalg.solve((gram + torch.diag_embed(ridge)).cpu(), product.cpu()).to(gram.device)
        return weight, motion - (weight * mean).sum(1)


def _moments(h: torch.Tensor, own: torch.Tensor, y: torch.Tensor) -> _Moments:
    q, (m, ds, width) = h.shape[1], own.shape
    gram = torch.empty(ds, q + width, q + width, dtype=h.dtype, device=h.device)
    gram[:, :q, :q] = h.T @ h
    cross = (h.T @ own.reshape(m, ds * width)).reshape(q, ds, width).permute(1, 0, 2)
    gram[:, :q, q:], gram[:, q:, :q] = cross, cross.transpose(1, 2)
    by_coordinate = own.permute(1, 2, 0)
    gram[:, q:, q:] = by_coordinate @ by_coordinate.transpose(1, 2)
    product = torch.cat([(h.T @ y).T, (by_coordinate @ y.T[:, :, None])[:, :, 0]], dim=1)
    features = torch.cat([h.sum(0).expand(ds, q), own.sum(0)], dim=1)
    return _Moments(torch.tensor(float(m), dtype=h.dtype, device=h.device), features, gram, y.sum(0), product)
