"""Influence functions with an eigenvalue-corrected Kronecker curvature (EK-FAC), for any torch module of linear layers.

Koh and Liang (2017) for influence, George et al. (2018) for EK-FAC, Grosse et al. (2023) for both together; Agia et
al., "CUPID" (2025) for robot policies. With f the mean log-likelihood of what is wanted and L a training sample's loss,
I(z) = -grad f^T (G + lambda I)^-1 grad L(z): how much f rises when z counts for more. Positive is helpful.

The hook for a module of your own is :class:`Objective`: how to get one loss a sample from it, and one loss a sample
against labels drawn from its own prediction. Only those of its ``torch.nn.Linear`` layers are attributed to that train;
their inputs may have axes between the sample's and the feature's (tokens, time), over which gradients are summed. What
reads a layer's weight without calling it, as ``torch.nn.MultiheadAttention`` does with ``out_proj``, must be left out
by ``Objective.layers``. In evaluation mode::

    objective = Objective(losses=lambda policy, batch: policy.loss(batch, reduction="none"))
    curved = curvature(policy, objective, training_batches, seed=0)
    asked = solve(curved, gradient(policy, objective, targets), damping=0.1)
    scores = influence(policy, objective, demonstrations, asked)  # one number a sample
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Curvature", "Objective", "curvature", "gradient", "influence", "sides", "solve"]

Batch = Any
Gradient = dict[str, torch.Tensor]  # by layer, [outputs, inputs + 1]: the weight's beside the bias's


@dataclass(frozen=True)
class Objective:
    """How a module is trained, as far as attribution must know.

    ``losses(module, batch)``: the negative log-likelihood of each sample up to a constant, [n]; samples must not depend
    on each other (no batch statistics). ``sampled(module, batch, generator)``: the same with labels drawn from the
    module's own predictive distribution, for which the outer product of gradients is the Gauss-Newton matrix; without
    it the recorded labels are used (the empirical Fisher), which is worse far from a good fit.

    ``layers(name)``: whether the linear layer of that name is attributed to; all are by default.
    """

    losses: Callable[[nn.Module, Batch], torch.Tensor]
    sampled: Callable[[nn.Module, Batch, torch.Generator], torch.Tensor] | None = None
    layers: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class Curvature:
    """The Gauss-Newton matrix by layer in its Kronecker eigenbasis: ``left`` [o, o], ``right`` [i + 1, i + 1], and
    ``values`` [o, i + 1], the second moment of the gradient along each pair of their columns."""

    left: Gradient
    right: Gradient
    values: Gradient


def gradient(module: nn.Module, objective: Objective, batch: Batch, weight: torch.Tensor | None = None) -> Gradient:
    """The gradient of the ``weight``-ed sum [n] of the losses of ``batch`` (their mean by default), by linear layer.

    Raises ``ValueError``, as all here do, where a layer is used twice or not at all, and where there is none.
    """
    with _watched(module, objective) as seen:
        losses = objective.losses(module, batch)
        total = losses.mean() if weight is None else (losses * weight).sum()
        slopes = torch.autograd.grad(total, _outputs(seen))
    return {
        name: _flat(slope).T @ _with_bias(_flat(inputs), layer)
        for (name, layer), (inputs, _), slope in zip(_linears(module, objective), seen.values(), slopes, strict=True)
    }


def curvature(
    module: nn.Module, objective: Objective, batches: Iterable[Batch], *, seed: int, draws: int = 1
) -> Curvature:
    """The curvature over ``batches`` (a sequence, gone through twice), labels drawn ``draws`` times from ``seed``.

    O(n (i o + i^2 + o^2)) a layer and draw, and o^3 + i^3 for the eigenbases.
    """
    held = list(batches)
    inputs: Gradient = {}
    slopes: Gradient = {}
    count = 0
    for part in _samples(module, objective, held, seed, draws):
        for name, (x, g) in part.items():
            _add(inputs, name, x.reshape(-1, x.shape[-1]).T @ x.reshape(-1, x.shape[-1]))
            _add(slopes, name, g.reshape(-1, g.shape[-1]).T @ g.reshape(-1, g.shape[-1]))
        count += len(next(iter(part.values()))[0])
    right = {name: torch.linalg.eigh(total / count).eigenvectors for name, total in inputs.items()}
    left = {name: torch.linalg.eigh(total / count).eigenvectors for name, total in slopes.items()}
    values: Gradient = {}
    for part in _samples(module, objective, held, seed, draws):
        for name, (x, g) in part.items():
            x, g = x @ right[name], g @ left[name]
            if x.dim() == 2:  # one input a sample: the gradient is an outer product, and its squares are too
                _add(values, name, (g * g).T @ (x * x) / count)
            else:
                _add(values, name, (torch.einsum("nto,nti->noi", g, x) ** 2).sum(0) / count)
    return Curvature(left, right, values)


def solve(found: Curvature, slope: Gradient, damping: float) -> Gradient:
    """(G + lambda I)^-1 ``slope``; lambda is ``damping`` times a layer's mean eigenvalue."""
    solved = {}
    for name, g in slope.items():
        left, right, values = found.left[name], found.right[name], found.values[name]
        ridge = damping * float(values.mean()) + 1e-12
        solved[name] = left @ ((left.T @ g @ right) / (values + ridge)) @ right.T
    return solved


def influence(module: nn.Module, objective: Objective, batch: Batch, solved: Gradient) -> torch.Tensor:
    """I(z) of each sample of ``batch``, [n], where ``solved`` is (G + lambda I)^-1 times the gradient of the targets'
    loss: f is minus that loss, so the two signs cancel. The gradients themselves are never formed.
    """
    found = None
    with _watched(module, objective) as seen:
        slopes = torch.autograd.grad(objective.losses(module, batch).sum(), _outputs(seen))
    for (name, layer), (inputs, _), slope in zip(_linears(module, objective), seen.values(), slopes, strict=True):
        part = ((slope @ solved[name]) * _with_bias(inputs, layer)).flatten(1).sum(1)
        found = part if found is None else found + part
    assert found is not None  # as there is a layer
    return found


def sides(module: nn.Module, objective: Objective, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By linear layer, the inputs [n, ..., i + 1] and the slopes of the losses at its outputs [n, ..., o].

    Each sample's gradient is their outer product, summed over the axes between. Without a bias the inputs have no
    last 1.
    """
    with _watched(module, objective) as seen:
        slopes = torch.autograd.grad(objective.losses(module, batch).sum(), _outputs(seen))
    return {
        name: (_with_bias(inputs, layer), slope)
        for (name, layer), (inputs, _), slope in zip(_linears(module, objective), seen.values(), slopes, strict=True)
    }


class _watched:
    """Keeps the input and the output of every linear layer of a module while it is entered."""

    def __init__(self, module: nn.Module, objective: Objective) -> None:
        self.linears, self.seen, self.handles = _linears(module, objective), {}, []  # type: ignore[var-annotated]

    def __enter__(self) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
        for name, layer in self.linears:
            self.seen[name] = None  # their order is the layers', whichever runs first
            self.handles.append(layer.register_forward_hook(self._keep(name)))
        return self.seen

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, name: str) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if self.seen[name] is not None:
                raise ValueError(f"layer {name!r} is used twice, which influence cannot tell apart: leave it out")
            self.seen[name] = (inputs[0].detach(), output)
            return output.clone()  # what follows may change it in place, and would then be taken for the layer's

        return hook


def _outputs(seen: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    for name, kept in seen.items():
        if kept is None:
            raise ValueError(f"layer {name!r} has no part in the loss: leave it out by Objective.layers")
    return [output for _, output in seen.values()]


def _linears(module: nn.Module, objective: Objective) -> list[tuple[str, nn.Linear]]:
    """The layers that are attributed to: a frozen one taught nobody anything."""
    found = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad
        if objective.layers is None or objective.layers(name)
    ]
    if not found:
        raise ValueError("the module has no linear layer to attribute to")
    return found


def _samples(
    module: nn.Module, objective: Objective, batches: Sequence[Batch], seed: int, draws: int
) -> Iterable[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """By layer, inputs [n, ..., i + 1] and the slopes [n, ..., o] of each sample's own loss."""
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        for _ in range(draws):
            with _watched(module, objective) as seen:
                if objective.sampled is None:
                    losses = objective.losses(module, batch)
                else:
                    losses = objective.sampled(module, batch, generator)
                slopes = torch.autograd.grad(losses.sum(), _outputs(seen))
            yield {
                name: (_spread(_with_bias(inputs, layer)), _spread(slope))
                for (name, layer), (inputs, _), slope in zip(
                    _linears(module, objective), seen.values(), slopes, strict=True
                )
            }


def _with_bias(inputs: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    if layer.bias is None:
        return inputs
    return torch.cat([inputs, inputs.new_ones(*inputs.shape[:-1], 1)], dim=-1)


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _spread(x: torch.Tensor) -> torch.Tensor:
    """[n, d] as it is, [n, ..., d] as [n, t, d]."""
    return x if x.dim() == 2 else x.reshape(len(x), -1, x.shape[-1])


def _add(totals: Gradient, name: str, part: torch.Tensor) -> None:
    totals[name] = totals[name] + part if name in totals else part
