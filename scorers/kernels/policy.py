"""A small behaviour-cloning policy and ensembles of it: an MLP from state to a chunk of actions, trained as one model.

Pomerleau, "ALVINN" (1989) for behaviour cloning; Zhao et al., "Learning Fine-Grained Bimanual Manipulation with
Low-Cost Hardware" (2023) for the chunk of actions. The members of an ensemble are slices of the same tensors, so one
batched matrix product trains them all; each may learn from episodes of its own, which makes cross-fitting as cheap.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from scorers.kernels.mlp import adam, forward, layer
from scorers.kernels.training import Stopping, Training

__all__ = ["action_chunks", "module", "predict", "train"]

_LOOK = 50  # iterations between looks
_HELD_ROWS = 2048  # held-out steps of a member that a look measures
_AVERAGING = 0.98  # decay of the running mean of the weights, which is what is looked at and kept
_LAYERS = ("weight0", "bias0", "weight1", "bias1", "weight2", "bias2")


def action_chunks(
    action: np.ndarray, owner: np.ndarray, time: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``horizon`` actions from each step on: float32 [n, horizon, da], and bool [n, horizon] where they are known.

    Rows are in order of (episode, time). A chunk ends where its episode does or where a step is missing; nothing is
    repeated to fill it.
    """
    n = len(action)
    chunk, known = np.zeros((n, horizon, action.shape[1]), np.float32), np.zeros((n, horizon), bool)
    for ahead in range(min(horizon, n)):
        same = (owner[ahead:] == owner[: n - ahead]) & (time[ahead:] == time[: n - ahead] + ahead)
        rows = np.flatnonzero(same)
        chunk[rows, ahead], known[rows, ahead] = action[rows + ahead], True
    return chunk, known


def train(
    state: np.ndarray,
    chunk: np.ndarray,
    known: np.ndarray,
    owner: np.ndarray,
    learns: np.ndarray,
    stops: np.ndarray,
    *,
    seed: int,
    hidden: int = 128,
    batch: int = 256,
    rate: float = 2e-3,
    decay: float = 1e-4,
    limit: int = 3000,
    alone: bool = False,
    device: str = "cpu",
) -> Training:
    """Fit K policies to ``state`` [n, ds] and ``chunk`` [n, h, da], of which ``known`` [n, h] counts.

    ``owner`` [n] is the episode of each step, below E; ``learns`` and ``stops`` bool [K, E] say from which episodes
    each member learns and which it holds out. The loss is the squared error summed over action dimensions, averaged
    over the known steps of the chunk. A member keeps the weights of its least held-out loss, and has converged while
    that has not fallen by a thousandth in 300 iterations, for good with ``alone``; training ends when all have, or at
    ``limit`` (a quarter of it where none holds anything out).

    Initial weights and batches are drawn on the CPU from ``seed`` alone: one seed gives the same weights on one device
    with one thread count. Raises ``ValueError`` where a member has no step to learn from.
    """
    draw = torch.Generator().manual_seed(seed)
    members, (_, horizon, width) = len(learns), chunk.shape
    usable = known.any(axis=1)
    rows, counts = _rows(learns[:, owner] & usable)
    if not counts.all():
        raise ValueError("a member has no step to learn from")
    seen = learns[:, owner].any(axis=0)
    mean, deviation = state[seen].mean(axis=0, dtype=np.float64), state[seen].std(axis=0, dtype=np.float64)
    deviation = np.where(deviation > 1e-4, deviation, 1.0)
    x = torch.from_numpy(((state - mean) / deviation).astype(np.float32)).to(device)
    y = torch.from_numpy(np.ascontiguousarray(chunk, dtype=np.float32)).to(device)
    weight = torch.from_numpy((known / np.maximum(known.sum(axis=1, keepdims=True), 1)).astype(np.float32)).to(device)
    held_rows, held_counts = _rows(_thinned(stops[:, owner] & usable))

    sizes = [(state.shape[1], hidden), (hidden, hidden), (hidden, horizon * width)]
    layers = [tensor for a, b in sizes for tensor in layer(members, a, b, draw, device)]
    average = [tensor.detach().clone() for tensor in layers]
    holds, iterations = held_counts > 0, 0
    stopping = Stopping(average, holds, alone=alone)
    limit = limit if holds.any() else max(limit // 4, 1)
    first, second = ([torch.zeros_like(tensor) for tensor in average] for _ in range(2))
    for step in range(1, limit + 1):
        pick = (torch.rand(members, min(batch, int(counts.max())), generator=draw) * counts[:, None]).long()
        pick = rows.gather(1, pick).to(device)
        out = forward(x[pick], layers).view(members, -1, horizon, width)
        loss = (((out - y[pick]) ** 2).sum(3) * weight[pick]).sum(2).mean(1).sum()
        slopes = torch.autograd.grad(loss, layers)
        with torch.no_grad():
            adam(layers, slopes, first, second, step, rate, decay)
            keep = min(_AVERAGING, step / (step + 10))
            torch._foreach_lerp_(average, layers, 1 - keep)
        iterations = step
        if step % _LOOK and step != limit:
            continue
        if stopping.look(average, _held_out(x, y, weight, average, held_rows, held_counts)):
            break
    weights = {name: tensor.cpu().numpy() for name, tensor in zip(_LAYERS, stopping.kept, strict=True)}
    weights |= {
        "mean": mean.astype(np.float32),
        "deviation": deviation.astype(np.float32),
        "horizon": np.array([horizon], np.int64),
    }
    return stopping.training(weights, iterations)


def predict(
    weights: Mapping[str, np.ndarray], state: np.ndarray, members: slice | np.ndarray | None = None, device: str = "cpu"
) -> np.ndarray:
    """Chunks float32 [K, n, h, da] that the members (all of them by default) expect after ``state`` [n, ds].

    In float64, so that CPU and CUDA differ by less than a float32 can show.
    """
    some = slice(None) if members is None else members
    layers = [torch.from_numpy(np.asarray(weights[name][some], np.float64)).to(device) for name in _LAYERS]
    horizon, outputs = int(weights["horizon"][0]), layers[-1].shape[-1]
    found = [np.empty((len(layers[0]), 0, horizon, outputs // horizon), np.float32)]
    with torch.no_grad():
        for start in range(0, len(state), 4096):
            x = (np.asarray(state[start : start + 4096], np.float64) - weights["mean"]) / weights["deviation"]
            out = forward(torch.from_numpy(x).to(device).expand(len(layers[0]), -1, -1), layers)
            found.append(out.float().cpu().numpy().reshape(len(layers[0]), len(x), horizon, -1))
    return np.concatenate(found, axis=1)


def module(weights: Mapping[str, np.ndarray], member: int = 0) -> torch.nn.Sequential:
    """One member as an ordinary torch module, float64, from standardised state [n, ds] to [n, h * da].

    Standardised is (state - ``weights["mean"]``) / ``weights["deviation"]``.
    """
    parts: list[torch.nn.Module] = []
    for number in range(3):
        matrix = torch.from_numpy(np.asarray(weights[f"weight{number}"][member], np.float64))
        layer = torch.nn.Linear(*matrix.shape, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(matrix.T)
            layer.bias.copy_(torch.from_numpy(np.asarray(weights[f"bias{number}"][member, 0], np.float64)))
        parts += [layer, torch.nn.SiLU()]
    return torch.nn.Sequential(*parts[:-1])


def _rows(mine: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The true columns of each row of bool [K, n], as indices [K, most] padded with 0, and how many they are."""
    counts = mine.sum(axis=1)
    rows = np.zeros((len(mine), int(counts.max(initial=1))), np.int64)
    for member, own in enumerate(mine):
        found = np.flatnonzero(own)
        rows[member, : len(found)] = found
    return torch.from_numpy(rows), torch.from_numpy(counts)


def _thinned(mine: np.ndarray) -> np.ndarray:
    """At most ``_HELD_ROWS`` of each row's true columns, evenly spread."""
    thin = np.zeros_like(mine)
    for member, own in enumerate(mine):
        found = np.flatnonzero(own)
        some = np.linspace(0, len(found) - 1, min(len(found), _HELD_ROWS)).astype(np.int64) if len(found) else found
        thin[member, found[some]] = True
    return thin


def _held_out(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    layers: list[torch.Tensor],
    rows: torch.Tensor,
    counts: torch.Tensor,
) -> torch.Tensor:
    """The loss of each member on its held-out rows, float32 [K] on the CPU; infinity where it has none."""
    total = torch.zeros(len(layers[0]), device=x.device)
    for start in range(0, rows.shape[1], 512):
        part = rows[:, start : start + 512]
        counted = (torch.arange(start, start + part.shape[1]) < counts[:, None]).to(x.device)
        part = part.to(x.device)
        with torch.no_grad():
            out = forward(x[part], layers).view(*part.shape, *y.shape[1:])
            error = (((out - y[part]) ** 2).sum(3) * weight[part]).sum(2)
        total += torch.where(counted, error, 0.0).sum(1)
    return torch.where(counts > 0, total.cpu() / counts.clamp(min=1), torch.inf)
