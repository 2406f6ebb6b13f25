"""A small beta-VAE whose mean codes stand for states or actions.

Kingma and Welling, "Auto-Encoding Variational Bayes" (2014); Higgins et al., "beta-VAE" (2017). The defaults are
those of DemInf's robomimic configuration: two hidden layers of 512, Adam at 1e-4, batches of 256, beta 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

__all__ = ["codes", "train"]


def train(
    x: np.ndarray,
    *,
    latent: int,
    seed: int,
    beta: float = 0.05,
    hidden: int = 512,
    steps: int = 4000,
    batch: int = 256,
    rate: float = 1e-4,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Encoder weights (float32 arrays) fitted to ``x`` [n, d], standardised by its own mean and deviation.

    The loss is the squared error summed over dimensions plus ``beta`` times the KL divergence to a unit normal. Initial
    weights, batches and noise are drawn on the CPU from ``seed`` alone, so the same seed gives the same weights on one
    device with one thread count; the codes of two devices agree in rank.
    """
    draw = torch.Generator().manual_seed(seed)
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation > 1e-6, deviation, 1.0)
    data = torch.from_numpy(((x - mean) / deviation).astype(np.float32)).to(device)
    sizes = [(x.shape[1], hidden), (hidden, hidden), (hidden, 2 * latent)]
    sizes += [(latent, hidden), (hidden, hidden), (hidden, x.shape[1])]
    layers = [_layer(a, b, draw, device) for a, b in sizes]
    optimiser = torch.optim.Adam([tensor for layer in layers for tensor in layer], lr=rate)
    for _ in range(steps):
        rows = torch.randint(len(x), (min(batch, len(x)),), generator=draw)
        noise = torch.randn(len(rows), latent, generator=draw).to(device)
        sample = data[rows.to(device)]
        centre, log_variance = _forward(sample, layers[:3]).chunk(2, dim=1)
        log_variance = log_variance.clamp(-10, 10)
        decoded = _forward(centre + noise * (0.5 * log_variance).exp(), layers[3:])
        divergence = 0.5 * (centre**2 + log_variance.exp() - 1 - log_variance).sum(1)
        loss = (((decoded - sample) ** 2).sum(1) + beta * divergence).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)}
    for i, (weight, bias) in enumerate(layers[:3]):
        found[f"weight{i}"], found[f"bias{i}"] = weight.detach().cpu().numpy(), bias.detach().cpu().numpy()
    return found


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


def _forward(x: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    for weight, bias in layers[:-1]:
        x = functional.relu(functional.linear(x, weight, bias))
    return functional.linear(x, *layers[-1])
