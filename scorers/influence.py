"""Influence: would a policy do better on what is wanted, had it been trained more on this demonstration?

Koh and Liang (2017) with the curvature of Grosse et al. (EK-FAC, 2023), for the engine's own policy; Agia et al.,
"CUPID" (2025) for its use on demonstrations. What is wanted are target demonstrations that the policy is not trained
on: the base set. Means over steps, then over demonstrations: sums would only measure length.

Successes less failures of a checkpoint's rollouts, as CUPID has it, are targets with others to stay away from
(``base.against`` in a recipe): influence is linear in f, so the two means simply subtract. For a module of your own see
``scorers.kernels.influence``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.model import Dataset
from data_engine.reference import RawEpisode, Reference, episodes
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Spec
from data_engine.view import EpisodeView
from scorers.cloning import Clones, Demonstrations
from scorers.kernels import influence as kernel
from scorers.kernels import policy
from scorers.pool import REFERENCE_STEPS, usual, worst_spans

__all__ = ["OBJECTIVE", "Influence", "tensors"]

_CURVED = 20_000  # steps of a group that the curvature is taken from
_ROWS = 4096


class Influence(Scorer):
    """I(z) = -grad f^T (G + lambda I)^-1 grad L(z) of each step, f the mean log-likelihood of the targets.

    The policy is behaviour cloning with chunks of ``chunk`` actions on the reference set, trained ``members`` times
    from other beginnings and averaged over; ``damping`` times a layer's mean eigenvalue is its lambda. An episode is
    held against the targets of its own task, or against all of its robot where there are none (a note says so).

    One step far out of the ordinary outweighs an episode, so steps are cut at the 1 and 99 % quantiles of the
    reference's own before the mean; ``step_values`` are uncut.

    Metrics: ``influence`` (mean over steps; positive is helpful); ``harmful_fraction`` (of steps below 0); ``length``,
    the baseline.
    """

    members: int = Field(default=3, ge=1, le=16)
    chunk: int = Field(default=4, ge=1, le=64)
    damping: float = Field(default=0.1, gt=0)
    iterations: int = Field(default=3000, ge=1)

    spec: ClassVar[Spec] = Spec(
        name="influence",
        version="2",
        level="episode",
        metrics=(
            Metric("influence", "log-likelihood", "higher"),
            Metric("harmful_fraction", "fraction of steps", "lower"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
        base="targets",
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Without ``base``: keep the demonstrations of ``batches`` as targets. With targets for ``base``: train on
        ``batches`` and keep the policy, and what the targets ask of it.

        Raises ``RequestError`` where the targets are of no robot that there is a policy for.
        """
        reference = Reference(batches, seed=seed, budget=REFERENCE_STEPS)
        if base is None:
            return self._fit(_kept(reference), {"targets": _facts(reference)}, reference.seen, seed, None)
        clones = Clones.fit(
            reference, seed=seed, folds=1, members=self.members, horizon=self.chunk, limit=self.iterations,
            device=device,
        )  # fmt: skip
        targets = _targets(base)
        arrays, tasks, limits = clones.arrays(), {}, {}
        for number, group in enumerate(clones.views):
            wanted = [(clones.views[group].measure(raw), sign) for raw, sign in targets if raw.group == group]
            if group in clones.weights and wanted:
                tasks[group] = ["", *sorted({view.task for view, _ in wanted} - {""})]
                learned = usual([clones.views[group].measure(raw) for raw in reference.groups[group]])
                arrays |= self._asked(clones, group, learned, wanted, tasks[group], f"asked.{number}", seed, device)
                asked = _loaded(arrays, device)
                steps = Demonstrations.of(learned, clones.tasks[group], clones.horizon).thinned(_CURVED)
                limits[group] = [
                    np.percentile(self._steps(clones, group, steps, asked, place, device), [1, 99]).tolist()
                    for place in range(len(tasks[group]))
                ]
        if not tasks:
            raise RequestError(
                "no target is of a robot and with columns that there are demonstrations to train on",
                code="unlike_base",
                fix="name targets of the episodes' own embodiment and control mode",
            )
        seen = tuple(sorted([*reference.seen, *base.reference]))
        return self._fit(arrays, clones.meta() | {"tasks": tasks, "limits": limits}, seen, seed, base.id)

    def less(self, wanted: Fit, unwanted: Fit) -> Fit:
        """Targets of which the second fit's count against the first's."""
        count = len(wanted.meta["targets"])
        arrays = {f"{count + int(i)}.{name}": x for key, x in unwanted.arrays.items() for i, name in [key.split(".")]}
        facts = [*wanted.meta["targets"], *({**target, "sign": -1} for target in unwanted.meta["targets"])]
        seen = tuple(sorted([*wanted.reference, *unwanted.reference]))
        return self._fit({**wanted.arrays, **arrays}, {"targets": facts}, seen, wanted.seed, unwanted.id)

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode. An episode that the policy was trained on is measured as any other."""
        clones = Clones.load(fit)
        asked = _loaded(fit.arrays, device)
        return [self._rows(raw, clones, asked, fit.meta, device) for raw in episodes(batch)]

    def _fit(
        self,
        arrays: Mapping[str, np.ndarray],
        meta: Mapping[str, Any],
        seen: tuple[str, ...],
        seed: int,
        base: str | None,
    ) -> Fit:
        return Fit(self.spec.name, self.spec.version, self.config, seed, seen, arrays, meta, base)

    def _asked(
        self,
        clones: Clones,
        group: str,
        learned: Sequence[EpisodeView],
        wanted: Sequence[tuple[EpisodeView, int]],
        tasks: Sequence[str],
        prefix: str,
        seed: int,
        device: str,
    ) -> dict[str, np.ndarray]:
        """(G + lambda I)^-1 times the gradient of the targets' loss, by member, task and layer."""
        weights = clones.weights[group]
        steps = Demonstrations.of(learned, clones.tasks[group], clones.horizon).thinned(_CURVED)
        found = {}
        for member in range(clones.members):
            module = policy.module(weights, member).to(device)
            curved = kernel.curvature(module, OBJECTIVE, tensors(steps, weights, device), seed=seed % 2**63, draws=2)
            for place, task in enumerate(tasks):
                mine = [(view, sign) for view, sign in wanted if not task or view.task == task]
                counts = {sign: sum(own == sign for _, own in mine) for sign in (1, -1)}
                total: dict[str, torch.Tensor] = {}
                for view, sign in mine:  # the mean over demonstrations of each one's mean over steps
                    (part,) = tensors(clones.steps(view), weights, device, rows=len(view.state))
                    for name, slope in kernel.gradient(module, OBJECTIVE, part).items():
                        total[name] = total.get(name, 0) + slope * (sign / counts[sign])
                for name, solved in kernel.solve(curved, total, self.damping).items():
                    found[f"{prefix}.{member}.{place}.{name}"] = solved.cpu().numpy().astype(np.float32)
        return found

    def _steps(
        self,
        clones: Clones,
        group: str,
        steps: Demonstrations,
        asked: Mapping[str, torch.Tensor],
        place: int,
        device: str,
    ) -> np.ndarray:
        """I of each of ``steps`` on the targets at ``place``, mean over members: float64 [n]."""
        weights, number = clones.weights[group], list(clones.views).index(group)
        total = np.zeros(len(steps.inputs))
        for member in range(clones.members):
            prefix = f"asked.{number}.{member}.{place}."
            solved = {name.removeprefix(prefix): x for name, x in asked.items() if name.startswith(prefix)}
            module = policy.module(weights, member).to(device)
            parts = [kernel.influence(module, OBJECTIVE, b, solved) for b in tensors(steps, weights, device)]
            total += torch.cat(parts).cpu().numpy() / clones.members
        return total

    def _rows(
        self,
        raw: RawEpisode,
        clones: Clones,
        asked: Mapping[str, torch.Tensor],
        meta: Mapping[str, Any],
        device: str,
    ) -> list[ScoreRow]:
        tasks = meta["tasks"]
        length = ScoreRow("length", float(len(raw.state)))
        reason = raw.problem or (None if raw.finite.any() else "no finite step")
        if reason is None and raw.group not in tasks:
            reason = f"no policy or no target for {raw.group}"
        if reason is not None:
            return [*(ScoreRow(m.name, None, "undefined", reason) for m in self.spec.metrics[:-1]), length]
        view = clones.views[raw.group].measure(raw)
        place = tasks[raw.group].index(view.task) if view.task in tasks[raw.group] else 0
        note = None if place or not view.task else "against every target: none is of this task"
        total = self._steps(clones, raw.group, clones.steps(view), asked, place, device)
        cut = np.clip(total, *meta["limits"][raw.group][place])
        steps = np.full(len(view.valid), np.nan)
        steps[view.valid] = total
        low = np.nan_to_num(steps) < -3 * np.abs(cut).mean()
        return [
            ScoreRow(
                "influence",
                float(cut.mean()),
                reason=note,
                step_values=steps.astype(np.float32),
                spans=worst_spans(-steps, low, "harmful_to_the_targets"),
            ),
            ScoreRow("harmful_fraction", float((total < 0).mean()), reason=note),
            length,
        ]


def _losses(module: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Minus the log-likelihood of the actions under a unit Gaussian about what the policy expects."""
    x, y, weight = batch
    return 0.5 * (weight * (module(x).view_as(y) - y) ** 2).flatten(1).sum(1)


def _sampled(module: torch.nn.Module, batch: Any, generator: torch.Generator) -> torch.Tensor:
    x, y, weight = batch
    out = module(x).view_as(y)
    noise = torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device)
    return (weight.sqrt() * noise * out).flatten(1).sum(1)  # the gradient of the loss of a label drawn about ``out``


OBJECTIVE = kernel.Objective(_losses, _sampled)
"""How the engine's own policy is trained, on what :func:`tensors` gives."""


def tensors(
    steps: Demonstrations, weights: Mapping[str, np.ndarray], device: str, rows: int = _ROWS
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Standardised inputs, chunks and the weight of each of their actions, float64."""
    x = (steps.inputs.astype(np.float64) - weights["mean"]) / weights["deviation"]
    weight = (steps.known / steps.known.sum(axis=1, keepdims=True))[:, :, None]
    arrays = (x, steps.chunk.astype(np.float64), np.broadcast_to(weight, steps.chunk.shape).copy())
    found = [torch.from_numpy(array).to(device) for array in arrays]
    return [tuple(t[at : at + rows] for t in found) for at in range(0, len(x), max(rows, 1))]  # type: ignore[misc]


def _kept(reference: Reference) -> dict[str, np.ndarray]:
    raws = [raw for members in reference.groups.values() for raw in members]
    return {f"{i}.{name}": getattr(raw, name) for i, raw in enumerate(raws) for name in ("state", "action")}


def _facts(reference: Reference) -> list[dict[str, Any]]:
    return [
        {"content_hash": raw.content_hash, "group": group, "task": raw.task, "fps": raw.dataset.fps}
        for group, members in reference.groups.items()
        for raw in members
    ]


def _targets(base: Fit) -> list[tuple[RawEpisode, int]]:
    """The targets, and -1 for those that count against the others."""
    found = []
    for i, facts in enumerate(base.meta["targets"]):
        dataset = Dataset(name="targets", fps=facts["fps"], features=(), origin="-", format="-")
        state, action = base.arrays[f"{i}.state"], base.arrays[f"{i}.action"]
        raw = RawEpisode(facts["content_hash"], facts["group"], facts["task"], dataset, state, action)
        found.append((raw, facts.get("sign", 1)))
    return found


def _loaded(arrays: Mapping[str, np.ndarray], device: str) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.asarray(array, np.float64)).to(device)
        for name, array in arrays.items()
        if name.startswith("asked.")
    }
