"""Group DRO over domains: which mixture makes the worst-off domain, measured by what could be learned of it, best.

Sagawa et al. 2020, "Distributionally Robust Neural Networks for Group Shifts" for the game; Xie et al. 2023 (DoReMi)
for the excess over a reference; Hejna et al. 2024, "Re-Mix: Optimizing Data Mixtures for Large Scale Imitation
Learning" for policies: a reference is trained first, a proxy then on a mixture that follows where it lags behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from scorers.kernels.mlp import adam, forward, layer
from scorers.kernels.policy import predict, train

__all__ = ["Mixed", "excess", "remix", "reweigh"]


@dataclass(frozen=True)
class Mixed:
    """``alpha`` float64 [D]: the share of each domain, the mean over the proxy's training. ``last`` [D]: the last one.

    ``reference`` float64 [D]: the reference's mean loss in each domain; ``proxy`` [D]: the proxy's in the end.
    """

    alpha: np.ndarray
    last: np.ndarray
    reference: np.ndarray
    proxy: np.ndarray


def excess(loss: np.ndarray, reference: np.ndarray) -> float:
    """How far ``loss`` [n] is above ``reference`` [n]: the mean of what exceeds it, over those that do; 0 for none."""
    above = np.maximum(np.asarray(loss, np.float64) - reference, 0.0)
    count = int((above > 0).sum())
    return float(above.sum() / count) if count else 0.0


def reweigh(alpha: np.ndarray, found: np.ndarray, initial: np.ndarray, rate: float, smoothing: float) -> np.ndarray:
    """The next ``alpha`` [D]: times exp(``rate`` x ``found``), brought to sum 1, drawn ``smoothing`` to ``initial``.

    All float64 [D]; ``found`` the excess of each domain.
    """
    grown = alpha * np.exp(rate * (found - found.max()))  # a shift of all changes nothing, and none overflows
    return (1 - smoothing) * grown / grown.sum() + smoothing * initial


def remix(
    state: np.ndarray,
    chunk: np.ndarray,
    known: np.ndarray,
    owner: np.ndarray,
    domain: np.ndarray,
    *,
    seed: int,
    rate: float = 0.2,
    smoothing: float = 0.05,
    iterations: int = 2000,
    reference_iterations: int = 3000,
    batch: int = 256,
    hidden: int = 128,
    device: str = "cpu",
) -> Mixed:
    """The mixture of D domains of steps ``state`` [n, ds], ``chunk`` [n, h, da], ``known`` bool [n, h].

    ``owner`` int64 [n]: each step's episode, below E, and ``domain`` int64 [E] its domain. The reference learns from
    all steps alike, one episode in ten held out to tell it when to stop. Each iteration draws as many steps of every
    domain, steps the proxy down sum_d alpha_d x its mean loss there, and alpha after its excess. ``initial`` is each
    domain's share of the steps. One seed gives the same answer on one device with one thread count.
    """
    count = int(domain.max()) + 1
    of_step = domain[owner]
    usable = known.any(axis=1)
    initial = np.bincount(of_step[usable], minlength=count).astype(np.float64)
    initial /= initial.sum()
    rng = np.random.default_rng(seed)
    held = np.zeros(len(domain), bool)
    for number in range(count):
        mine = np.flatnonzero(domain == number)
        held[rng.permutation(mine)[: len(mine) // 10]] = True
    learned = train(
        state, chunk, known, owner, ~held[None], held[None], seed=seed, hidden=hidden, limit=reference_iterations,
        device=device,
    )  # fmt: skip
    expected = predict(learned.weights, state, device=device)[0]
    weight = (known / np.maximum(known.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    reference = (((expected - chunk) ** 2).sum(axis=2) * weight).sum(axis=1)

    draw = torch.Generator().manual_seed(seed + 1)
    mean, deviation = learned.weights["mean"], learned.weights["deviation"]
    x = torch.from_numpy(((state - mean) / deviation).astype(np.float32)).to(device)
    y = torch.from_numpy(np.ascontiguousarray(chunk, dtype=np.float32)).to(device)
    scale = torch.from_numpy(weight).to(device)
    horizon, width = chunk.shape[1:]
    sizes = [(state.shape[1], hidden), (hidden, hidden), (hidden, horizon * width)]
    layers = [tensor for a, b in sizes for tensor in layer(1, a, b, draw, device)]
    first, second = ([torch.zeros_like(tensor) for tensor in layers] for _ in range(2))
    rows = [np.flatnonzero((of_step == number) & usable) for number in range(count)]
    each = max(batch // count, 8)
    alpha, total = initial.copy(), np.zeros(count)
    for step in range(1, iterations + 1):
        picks = [torch.randint(len(mine), (each,), generator=draw).numpy() for mine in rows]
        pick = np.concatenate([mine[at] for mine, at in zip(rows, picks, strict=True)])
        at = torch.from_numpy(pick).to(device)
        loss = _loss(x[at], y[at], scale[at], layers).view(count, each)
        measured = loss.detach().cpu().numpy()
        found = np.array([excess(measured[d], reference[pick[d * each : (d + 1) * each]]) for d in range(count)])
        alpha = reweigh(alpha, found, initial, rate, smoothing)
        total += alpha
        toward = torch.from_numpy(alpha.astype(np.float32)).to(device)
        slopes = torch.autograd.grad((loss.mean(1) * toward).sum(), layers)
        with torch.no_grad():
            adam(layers, slopes, first, second, step, 2e-3, 1e-4)
    with torch.no_grad():
        ended = np.concatenate(
            [_loss(x[i : i + 4096], y[i : i + 4096], scale[i : i + 4096], layers).cpu() for i in range(0, len(x), 4096)]
        )
    mean_of = [np.array([loss[mine].mean() for mine in rows], np.float64) for loss in (reference, ended)]
    return Mixed(total / iterations, alpha, *mean_of)


def _loss(x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, layers: list[torch.Tensor]) -> torch.Tensor:
    """Squared error summed over action dimensions, mean over the known steps of the chunk: [n]."""
    out = forward(x[None], layers).view(*y.shape)
    return (((out - y) ** 2).sum(2) * scale).sum(1)
