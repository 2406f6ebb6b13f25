"""Mutual information between state and action: how predictably, and how richly, an episode acts on what it sees.

Hejna et al., "Robot Data Curation with Mutual Information Estimators" (DemInf, 2025). Upstream shuffles the dataset
into batches of 1,024 and estimates each step inside the batch it falls into. Here the batches are drawn once, at the
fit, and a step is joined on its own to each (less the steps of its own episode): the same estimate, one that no other
episode in the call can change, and the same for a step of the reference as for a newcomer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from data_engine.reference import RawEpisode, key_of
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Spec
from data_engine.view import EpisodeView
from scorers.kernels import vae
from scorers.kernels.ksg import pointwise
from scorers.pool import Pool, Pools, worst_spans

__all__ = ["MutualInformation"]

_BATCH = 1024
_KS = (5, 6, 7)
_CALIBRATION = 256  # steps of each batch that the z-score is taken from
_LEAST = 64  # reference steps below which there is no estimate
_TRAINING = 8192  # steps of a group that a VAE learns from
_HELD_OUT = 10  # one episode in this many tells a VAE when to stop
_LATENT = {"state": 12, "action": 6}
Key = tuple[str, str | None]


class MutualInformation(Scorer):
    """The KSG estimate of each step's information, averaged over ``passes`` reference batches and k in 5, 6, 7.

    ``codes``: ``none`` measures in the view itself (relative actions, velocities); ``vae`` in the mean codes of one
    beta-VAE for positions (12 numbers) and one for actions (6), DemInf's robomimic configuration, chunks of 1: each is
    trained until the loss of the episodes that it holds out falls no more, or for ``vae_steps``. Velocities are left
    out there: most of what a velocity tells of the action is that motion goes on, in a good episode as in a bad one.

    A step whose state and action another five steps repeat exactly has radius 0: it is null (``tied``) and leaves the
    reference; integrity judges it. Episodes far out of the usual action range serve nobody as reference: among
    themselves rare actions are the most informative of all.

    Metrics: ``information`` (steps cut at the reference's 1 and 99 % quantiles and z-scored within (task, embodiment),
    their mean), ``uninformative_fraction`` (of the steps, below the reference's 10 % quantile: a stretch of those is
    lost in the mean), ``nats`` (mean raw estimate), ``tied_fraction``, ``length``, the baseline to beat.
    """

    codes: Literal["none", "vae"] = "none"
    passes: int = Field(default=4, ge=1, le=64)
    vae_steps: int = Field(default=10_000, ge=1)

    spec: ClassVar[Spec] = Spec(
        name="mutual_information",
        version="4",
        level="episode",
        metrics=(
            Metric("information", "z", "higher"),
            Metric("uninformative_fraction", "fraction of steps", "lower"),
            Metric("nats", "nats", "higher"),
            Metric("tied_fraction", "fraction of steps", "neither"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Draw the reference batches (and train the VAEs), and measure their own steps for the z-score."""
        size = _BATCH if self.codes == "none" else _TRAINING
        pools, seen = Pools.build(
            batches, seed=seed, size=size, draws=self.passes, keep=lambda view: ~_tied(view.state, view.action)
        )
        weights: dict[str, np.ndarray] = {}
        trained: dict[str, Any] = {}
        if self.codes == "vae":
            weights, trained = self._train(pools, seed, device)
        draws = {
            key: [_untied(_coded(_cut(pool), weights, _group_number(pools, key[0]), device)) for pool in found]
            for key, found in pools.draws.items()
        }
        pools = replace(pools, draws=draws)
        scales: list[list[float] | None] = []
        for found in draws.values():
            parts = [_estimate(*_some(pool), found, device) for pool in found]
            values = np.concatenate(parts)
            values = values[np.isfinite(values)]
            if len(values) < _LEAST:
                scales.append(None)
                continue
            low, tenth, high = np.percentile(values, [1, 10, 99])
            cut = np.clip(values, low, high)
            scales.append([*map(float, (low, tenth, high, cut.mean(), max(cut.std(), 1e-9)))])
        return self.learned(
            seen,
            seed=seed,
            base=base,
            arrays={**pools.arrays(), **weights},
            meta={**pools.meta(), "scales": scales, "trained": trained},
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode against the fit's batches, its own recording left out of them."""
        pools = Pools.load(fit)
        scales = dict(zip(pools.draws, fit.meta["scales"], strict=True))
        measured = pools.measure(batch)
        against: dict[Key, list[EpisodeView]] = defaultdict(list)
        for _, view in measured:
            if view is not None and len(view.state):
                pool = pools.of(view)[0]
                against[pool.group, pool.task].append(view)
        nats: dict[int, np.ndarray] = {}
        for key, views in against.items():
            number = _group_number(pools, key[0])
            state = _code(np.concatenate([view.state for view in views]), fit.arrays, number, "state", device)
            action = _code(np.concatenate([view.action for view in views]), fit.arrays, number, "action", device)
            owner = np.concatenate([np.full(len(view.state), pools.owner(view)) for view in views])
            values = _estimate(state, action, owner, pools.draws[key], device)
            ends = np.cumsum([len(view.state) for view in views])
            nats.update(zip(map(id, views), np.split(values, ends[:-1]), strict=True))
        return [self._rows(raw, view, nats, pools, scales) for raw, view in measured]

    def _rows(
        self,
        raw: RawEpisode,
        view: EpisodeView | None,
        nats: Mapping[int, np.ndarray],
        pools: Pools,
        scales: Mapping[Key, Any],
    ) -> list[ScoreRow]:
        n = len(raw.state)
        if view is None or not len(view.state):
            reason = raw.problem or ("no finite step" if not raw.finite.any() else f"no reference for {raw.group}")
            return self._undefined(n, reason)
        pool = pools.of(view)[0]
        scale = scales[pool.group, pool.task]
        if scale is None:
            return self._undefined(n, f"sparse: the reference has fewer than {_LEAST} steps of other episodes")
        tied = _tied(view.state, view.action)
        values = np.where(tied, np.nan, nats[id(view)])
        defined = np.isfinite(values)
        share = ScoreRow("tied_fraction", float(1 - defined.mean()))
        if not defined.any():
            reason = (
                "tied: every step repeats others exactly" if tied.all() else "sparse or tied: no step has an estimate"
            )
            *rows, _, length = self._undefined(n, reason)
            return [*rows, share, length]
        low, tenth, high, mean, deviation = scale
        steps = np.full(n, np.nan)
        steps[view.valid] = (np.clip(values, low, high) - mean) / deviation
        note = pool.note(view)
        spans = worst_spans(-steps, np.nan_to_num(steps) < -1.5, "uninformative_action")
        headline = float(np.nanmean(steps))
        return [
            ScoreRow("information", headline, reason=note, step_values=steps.astype(np.float32), spans=spans),
            ScoreRow("uninformative_fraction", float((values[defined] < tenth).mean()), reason=note),
            ScoreRow("nats", float(values[defined].mean()), reason=note),
            share,
            ScoreRow("length", float(n)),
        ]

    def _undefined(self, n: int, reason: str) -> list[ScoreRow]:
        names = ("information", "uninformative_fraction", "nats", "tied_fraction")
        return [*(ScoreRow(name, None, "undefined", reason) for name in names), ScoreRow("length", float(n))]

    def _train(self, pools: Pools, seed: int, device: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The weights of the VAEs, and by group and what they code (``state``, ``action``) how their training ended."""
        weights: dict[str, np.ndarray] = {}
        ended: dict[str, Any] = {}
        for group in pools.views:
            pool = pools.draws[group, None][0]
            held = _held_out(pool, pools, seed)
            for name, latent in _LATENT.items():
                x = getattr(pool, name)
                x = x[:, : len(pools.views[group].position)] if name == "state" else x
                if len(x) and x.shape[1]:
                    training = vae.train(x, latent=latent, seed=seed, held=held, limit=self.vae_steps, device=device)
                    prefix = f"vae.{_group_number(pools, group)}.{name}."
                    weights.update({prefix + key: value for key, value in training.weights.items()})
                    ended.setdefault(group, {})[name] = training.ended
        return weights, ended


def _group_number(pools: Pools, group: str) -> int:
    return list(pools.views).index(group)


def _held_out(pool: Pool, pools: Pools, seed: int) -> np.ndarray:
    """bool [m]: the steps of ``pool`` that are of one episode in ten, of none where it holds fewer than three."""
    inside = set(np.unique(pool.owner).tolist())
    keys = {at: key_of(seed, content, "held out") for content, at in pools.owners[pool.group].items() if at in inside}
    apart = sorted(keys, key=keys.__getitem__)[::_HELD_OUT] if len(keys) >= 3 else []
    return np.isin(pool.owner, apart)


def _code(x: np.ndarray, weights: Mapping[str, np.ndarray], number: int, name: str, device: str) -> np.ndarray:
    """``x`` as codes where the fit holds a VAE for it, else as it is."""
    prefix = f"vae.{number}.{name}."
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return vae.codes(x[:, : len(own["mean"])], own, device=device) if own else x


def _coded(pool: Pool, weights: Mapping[str, np.ndarray], number: int, device: str) -> Pool:
    state = _code(pool.state, weights, number, "state", device)
    return replace(pool, state=state, action=_code(pool.action, weights, number, "action", device))


def _cut(pool: Pool) -> Pool:
    """The first 1,024 of a draw, itself a draw."""
    return replace(pool, state=pool.state[:_BATCH], action=pool.action[:_BATCH], owner=pool.owner[:_BATCH])


def _some(pool: Pool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State, action and owner of the steps of a draw that stand for the reference in the z-score."""
    return pool.state[:_CALIBRATION], pool.action[:_CALIBRATION], pool.owner[:_CALIBRATION]


def _untied(pool: Pool) -> Pool:
    """``pool`` without the steps that it holds too often for a radius above 0."""
    keep = ~_tied(pool.state, pool.action)
    return replace(pool, state=pool.state[keep], action=pool.action[keep], owner=pool.owner[keep])


def _tied(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """bool [n]: the steps that at least five others repeat exactly."""
    if not len(state):
        return np.zeros(0, dtype=bool)
    rows = np.ascontiguousarray(np.concatenate([state, action], axis=1) + np.float32(0))  # -0 is 0
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[inverse] > _KS[0]


def _estimate(
    state: np.ndarray, action: np.ndarray, owner: np.ndarray, found: Iterable[Pool], device: str
) -> np.ndarray:
    """The estimate of each step in nats, averaged over the batches that define it; NaN where none does."""
    passes = np.stack(
        [
            pointwise(state, action, p.state, p.action, ks=_KS, owner=owner, reference_owner=p.owner, device=device)
            for p in found
        ]
    )
    defined = np.isfinite(passes)
    return np.where(defined, passes, 0.0).sum(axis=0) / np.where(defined.any(axis=0), defined.sum(axis=0), np.nan)
