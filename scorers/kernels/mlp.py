"""Many small networks of two hidden layers as one: slices of the same tensors, one batched matrix product for all."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["adam", "forward", "layer"]


def forward(x: torch.Tensor, layers: list[torch.Tensor]) -> torch.Tensor:
    """[K, n, inputs] -> [K, n, outputs], by three weights and three biases in turn."""
    for number in (0, 2):
        x = functional.silu(torch.baddbmm(layers[number + 1], x, layers[number]))
    return torch.baddbmm(layers[5], x, layers[4])


def layer(
    members: int, inputs: int, outputs: int, draw: torch.Generator, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [K, inputs, outputs] and bias [K, 1, outputs], uniform within the inverse root of ``inputs``."""
    size = max(inputs, 1) ** -0.5
    weight = (torch.rand(members, inputs, outputs, generator=draw) * 2 - 1) * size
    bias = (torch.rand(members, 1, outputs, generator=draw) * 2 - 1) * size
    return weight.to(device).requires_grad_(), bias.to(device).requires_grad_()


def adam(
    layers: list[torch.Tensor],
    slopes: tuple[torch.Tensor, ...],
    first: list[torch.Tensor],
    second: list[torch.Tensor],
    step: int,
    rate: float,
    decay: float,
) -> None:
    """One step of AdamW (Loshchilov and Hutter, 2019), in place. torch.optim's own takes seconds to import."""
    torch._foreach_lerp_(first, slopes, 0.1)
    torch._foreach_mul_(second, 0.999)
    torch._foreach_addcmul_(second, slopes, slopes, 0.001)
    size = torch._foreach_sqrt(torch._foreach_div(second, 1 - 0.999**step))
    torch._foreach_add_(size, 1e-8)
    torch._foreach_mul_(layers, 1 - rate * decay)
    torch._foreach_addcdiv_(layers, first, size, -rate / (1 - 0.9**step))
