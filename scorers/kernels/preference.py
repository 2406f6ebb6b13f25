"""A reward learned from preferences: an ensemble of small networks under the Bradley-Terry model, trained as one.

Bradley and Terry (1952): P(second better) = e^r2 / (e^r1 + e^r2). Christiano et al., "Deep Reinforcement Learning from
Human Preferences" (2017): a network's reward per step, that of an item the mean over its steps, an ensemble for the
uncertainty, and annotators who answer at random now and then: p = e + (1 - 2e) P, which keeps a wrong answer from
weighing more the surer the network is. Ties and soft answers are targets between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from scorers.kernels.mlp import adam, forward, layer

__all__ = ["agreement", "item_rewards", "train", "weigh"]

_LAYERS = ("weight0", "bias0", "weight1", "bias1", "weight2", "bias2")
_BATCH = 128  # pairs
_AVERAGING = 0.98  # decay of the running mean of the weights, which is what is kept
_JITTER = 0.5  # of features that are seen in training, in deviations: a few pairs must not be known by heart
_SHRINK = 1e-3  # of rewards towards 0: only their differences are learned


def train(
    steps: np.ndarray,
    items: np.ndarray,
    pairs: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    *,
    seed: int,
    emphasis: np.ndarray | None = None,
    hidden: int = 64,
    iterations: int = 400,
    rate: float = 3e-3,
    decay: float = 0.02,
    flips: float = 0.1,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Fit K rewards and return their weights (float32 arrays, first axis the member).

    ``steps`` float32 [n, d] are features; ``items`` int64 [I, M] the rows of each item's steps, -1 where it has fewer;
    ``pairs`` int64 [P, 2] items; ``target`` [P] the probability that the second is better; ``weight`` float [K, P] what
    each pair counts to each member, 0 not at all; ``flips``: the share of answers that are assumed to be wrong;
    ``emphasis`` [d]: the deviation that each feature is brought to before it is seen, 1 by default: what is small is
    drowned by the jitter unless many answers depend on it.

    Rewards come out with mean 0 and deviation 1 over ``steps``, member by member, so that their spread is comparable.
    Everything is drawn on the CPU from ``seed`` alone. O(iterations K M hidden (d + hidden)) for batches of 256 pairs.
    Raises ``ValueError`` where a member has no pair to learn from.
    """
    members = len(weight)
    if not (weight > 0).any(axis=1).all():
        raise ValueError("a member has no pair to learn from")
    draw = torch.Generator().manual_seed(seed)
    mean, deviation = steps.mean(axis=0, dtype=np.float64), steps.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation > 1e-4, deviation, 1.0) / (1.0 if emphasis is None else emphasis)
    x = torch.from_numpy(((steps - mean) / deviation).astype(np.float32)).to(device)
    rows = torch.from_numpy(items).to(device)
    share = (rows >= 0).float()
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
    rows = rows.clamp(min=0)
    chosen = torch.from_numpy(pairs)
    goal = torch.from_numpy(target.astype(np.float32)).to(device)
    counts = torch.from_numpy((weight / weight.mean(axis=1, keepdims=True)).astype(np.float32)).to(device)

    sizes = [(steps.shape[1], hidden), (hidden, hidden), (hidden, 1)]
    layers = [tensor for a, b in sizes for tensor in layer(members, a, b, draw, device)]
    average = [tensor.detach().clone() for tensor in layers]
    first, second = ([torch.zeros_like(tensor) for tensor in average] for _ in range(2))
    order = torch.randperm(len(pairs), generator=draw)
    at = 0
    for step in range(1, iterations + 1):
        if at >= len(order):
            order, at = torch.randperm(len(pairs), generator=draw), 0
        pick = order[at : at + _BATCH]
        at += _BATCH
        both = chosen[pick].reshape(-1).to(device)
        pick = pick.to(device)
        seen = x[rows[both]].flatten(0, 1)
        seen = seen + _JITTER * torch.randn(seen.shape, generator=draw).to(device)
        reward = forward(seen.expand(members, -1, -1), layers)
        reward = reward.view(members, len(both), -1)
        mine = (reward * share[both]).sum(2).view(members, -1, 2)
        sure = flips + (1 - 2 * flips) * torch.sigmoid(mine[..., 1] - mine[..., 0])
        loss = functional.binary_cross_entropy(sure, goal[pick].expand(members, -1), counts[:, pick], reduction="sum")
        loss = loss / len(pick) + _SHRINK * (reward**2).mean(dim=(1, 2)).sum()
        slopes = torch.autograd.grad(loss, layers)
        with torch.no_grad():
            now = rate * min(1.0, 2 * (1 - step / (iterations + 1)))
            adam(layers, slopes, first, second, step, now, decay)
            keep = min(_AVERAGING, step / (step + 10))
            torch._foreach_lerp_(average, layers, 1 - keep)
    weights = {name: tensor.cpu().numpy() for name, tensor in zip(_LAYERS, average, strict=True)}
    weights |= {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)}
    plain = weigh({**weights, "centre": np.zeros(members), "scale": np.ones(members)}, steps, device)
    scale = plain.std(axis=1)
    return weights | {"centre": plain.mean(axis=1), "scale": np.where(scale > 1e-9, scale, 1.0)}


def weigh(weights: Mapping[str, np.ndarray], steps: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The reward float64 [K, n] of each step by each member.

    In float64, so that CPU and CUDA differ by less than a float32 can show.
    """
    layers = [torch.from_numpy(np.asarray(weights[name], np.float64)).to(device) for name in _LAYERS]
    found = [np.empty((len(layers[0]), 0))]
    with torch.no_grad():
        for start in range(0, len(steps), 4096):
            x = (np.asarray(steps[start : start + 4096], np.float64) - weights["mean"]) / weights["deviation"]
            out = forward(torch.from_numpy(x).to(device).expand(len(layers[0]), -1, -1), layers)
            found.append(out[..., 0].cpu().numpy())
    return (np.concatenate(found, axis=1) - weights["centre"][:, None]) / weights["scale"][:, None]


def item_rewards(rewards: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The mean reward [..., I] of each item's steps, from that of each step [..., n]; ``items`` int64 [I, M], -1
    padded.
    """
    known = items >= 0
    return (rewards[..., np.maximum(items, 0)] * known).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


def agreement(rewards: np.ndarray, pairs: np.ndarray, target: np.ndarray) -> float | None:
    """The share of ``pairs`` [P, 2] whose better item (``target`` [P], ties left out) has the higher of ``rewards``
    [I].

    Equal rewards count half. None where there is no pair.
    """
    decided = target != 0.5
    if not decided.any():
        return None
    ahead = rewards[pairs[decided, 1]] - rewards[pairs[decided, 0]]
    right = np.where(target[decided] > 0.5, ahead, -ahead)
    return float((right > 0).mean() + 0.5 * (right == 0).mean())
