"""Costs on a GPU: the passes over all pairs are one matrix product and one selection each, which it does best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_engine.device import device
from data_engine.selection.costs import Cheapest, UnitCosts

__all__ = ["TorchCosts", "unit_costs"]

_LARGE = 200_000_000  # pairs below which it is not worth while to import torch
_CELLS = 50_000_000  # of a block: three of 0.2 GB are held at once


@dataclass(frozen=True)
class TorchCosts(UnitCosts):
    """:class:`UnitCosts` of which the cheapest are found by torch, on ``device``, in float32.

    The same as on numpy but for the last digits. Memory on the device: the targets and some 0.6 GB.
    """

    device: str = "cuda"

    def part(self, which: np.ndarray) -> TorchCosts:
        """Some of the rows."""
        return TorchCosts(self.ours[which], self.theirs, self.device)

    def cheapest(self, prices: np.ndarray, pairs: int) -> Cheapest:
        """See :class:`data_engine.selection.costs.Costs`."""
        import torch

        n, m = self.shape
        theirs = torch.from_numpy(self.theirs).to(self.device).T.contiguous()
        paid = torch.from_numpy(prices.astype(np.float32)).to(self.device)
        size, parts = max(1, _CELLS // m), []
        with torch.no_grad():
            for start in range(0, n, size):
                ours = torch.from_numpy(self.ours[start : start + size]).to(self.device)
                cost = (ours @ theirs).mul_(-2).add_(2).clamp_(min=0).sqrt_()
                found = (cost - paid).topk(min(pairs, m), dim=1, largest=False, sorted=True).indices
                parts.append((found.int().cpu().numpy(), cost.gather(1, found).cpu().numpy()))
        target, amount = (np.concatenate([part[i] for part in parts]) for i in range(2))
        return Cheapest(amount[:, 0] - prices[target[:, 0]], target, amount)


def unit_costs(ours: Any, theirs: Any) -> UnitCosts:
    """sqrt(2 - 2 cos) between unit vectors float [n, d] and [m, d]: on CUDA where there is one and they are many."""
    ours, theirs = (np.ascontiguousarray(side, np.float32) for side in (ours, theirs))
    if len(ours) * len(theirs) >= _LARGE and (where := device()) != "cpu":
        return TorchCosts(ours, theirs, where)
    return UnitCosts(ours, theirs)
