"""A small beta-VAE whose mean codes stand for states or actions.

Kingma and Welling, "Auto-Encoding Variational Bayes" (2014); Higgins et al., "beta-VAE" (2017). The defaults are
those of DemInf's robomimic configuration (two hidden layers of 512, batches of 256, beta 0.05), but for Adam's rate:
theirs is 1e-4, and at 1e-3 the held-out loss is where theirs is after four times the iterations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from scorers.kernels.training import Stopping, Training

__all__ = ["codes", "train"]

_LOOK = 100  # iterations between looks at what is held out


def train(
    x: np.ndarray,
    *,
    latent: int,
    seed: int,
    held: np.ndarray | None = None,
    beta: float = 0.05,
    hidden: int = 512,
    limit: int = 10_000,
    batch: int = 256,
    rate: float = 1e-3,
    device: str = "cpu",
) -> Training:
    """Encoder weights fitted to ``x`` [n, d], standardised by its own mean and deviation.

    The loss is the squared error summed over dimensions plus ``beta`` times the KL divergence to a unit normal. Rows
    where ``held`` bool [n] is true are not learned from: training ends when their loss, under one draw of noise, has
    not fallen by a thousandth in 600 iterations, or at ``limit``, and the weights of the least are kept. Where it is
    None or true of nothing, a quarter of ``limit`` is run.

    Initial weights, batches and noise are drawn on the CPU from ``seed`` alone, so the same seed gives the same weights
    on one device with one thread count; the codes of two devices agree in rank. Raises ``ValueError`` where every row
    is held.
    """
    draw = torch.Generator().manual_seed(seed)
    held = np.zeros(len(x), bool) if held is None else held
    if held.all():
        raise ValueError("there is no row to learn from")
    mean, deviation = x[~held].mean(axis=0, dtype=np.float64), x[~held].std(axis=0, dtype=np.float64)
    deviation = np.where(deviation > 1e-6, deviation, 1.0)
    data, apart = (
        torch.from_numpy(((x[rows] - mean) / deviation).astype(np.float32)).to(device) for rows in (~held, held)
    )
    sizes = [(x.shape[1], hidden), (hidden, hidden), (hidden, 2 * latent)]
    sizes += [(latent, hidden), (hidden, hidden), (hidden, x.shape[1])]
    layers = [_layer(a, b, draw, device) for a, b in sizes]
    tensors = [tensor for layer in layers for tensor in layer]
    optimiser = torch.optim.Adam(tensors, lr=rate)
    same = torch.randn(len(apart), latent, generator=draw).to(device)  # of every look: they differ by the weights alone
    stopping = Stopping([tensor[None] for tensor in tensors], torch.tensor([len(apart) > 0]))
    iterations, limit = 0, limit if len(apart) else max(limit // 4, 1)
    for iterations in range(1, limit + 1):
        rows = torch.randint(len(data), (min(batch, len(data)),), generator=draw)
        noise = torch.randn(len(rows), latent, generator=draw).to(device)
        loss = _losses(data[rows.to(device)], noise, layers, beta).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if iterations % _LOOK == 0 or iterations == limit:
            with torch.no_grad():
                found = _losses(apart, same, layers, beta).mean(0, keepdim=True).cpu()
            if stopping.look([tensor[None] for tensor in tensors], found):
                break
    kept = [tensor[0].cpu().numpy() for tensor in stopping.kept]
    weights = {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)}
    for i in range(3):
        weights[f"weight{i}"], weights[f"bias{i}"] = kept[2 * i], kept[2 * i + 1]
    return stopping.training(weights, iterations)


def codes(x: np.ndarray, weights: Mapping[str, np.ndarray], *, device: str = "cpu") -> np.ndarray:
    """Mean codes float32 [n, latent] of ``x`` [n, d] under ``weights`` from ``train``.

    In float64, so that CPU and CUDA differ by less than a float32 can show.
    """
    as64 = {name: torch.from_numpy(np.asarray(value, dtype=np.float64)).to(device) for name, value in weights.items()}
    layers = [(as64[f"weight{i}"], as64[f"bias{i}"]) for i in range(3)]
    found = [np.empty((0, len(weights["bias2"]) // 2), np.float32)]
    with torch.no_grad():
        for start in range(0, len(x), 4096):
            part = torch.from_numpy(np.asarray(x[start : start + 4096], dtype=np.float64)).to(device)
            out = _forward((part - as64["mean"]) / as64["deviation"], layers)
            found.append(out.chunk(2, dim=1)[0].float().cpu().numpy())
    return np.concatenate(found)


def _layer(inputs: int, outputs: int, draw: torch.Generator, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    weight = (torch.rand(outputs, inputs, generator=draw) * 2 - 1) / inputs**0.5
    bias = (torch.rand(outputs, generator=draw) * 2 - 1) / inputs**0.5
    return weight.to(device).requires_grad_(), bias.to(device).requires_grad_()


def _losses(
    x: torch.Tensor, noise: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor]], beta: float
) -> torch.Tensor:
    """Minus the evidence lower bound of each row up to scale, under ``noise`` [n, latent]: [n]."""
    centre, log_variance = _forward(x, layers[:3]).chunk(2, dim=1)
    log_variance = log_variance.clamp(-10, 10)
    decoded = _forward(centre + noise * (0.5 * log_variance).exp(), layers[3:])
    divergence = 0.5 * (centre**2 + log_variance.exp() - 1 - log_variance).sum(1)
    return ((decoded - x) ** 2).sum(1) + beta * divergence


def _forward(x: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    for weight, bias in layers[:-1]:
        x = functional.relu(functional.linear(x, weight, bias))
    return functional.linear(x, *layers[-1])
