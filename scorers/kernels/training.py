"""When a training ends, and what comes of it: early stopping of members that are trained side by side as one model.

Prechelt, "Early Stopping - But When?" (1998): train until the loss on what is held out has not improved for a while,
and keep the weights of its least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Stopping", "Training"]

_PATIENCE = 6  # looks without progress before a member has converged
_PROGRESS = 1e-3  # of the loss


@dataclass(frozen=True)
class Training:
    """What came of a training: ``weights`` (float32 arrays), ``held_out`` float64 [K] (the least held-out loss of each
    member, NaN where it held nothing out), ``converged`` bool [K] (that loss fell no more) and ``iterations``."""

    weights: dict[str, np.ndarray]
    held_out: np.ndarray
    converged: np.ndarray
    iterations: int

    @property
    def ended(self) -> dict[str, Any]:
        """Plain JSON: ``iterations``, the mean ``held_out`` loss (None where nothing was held out), and ``converged``:
        whether all that held something out ended by it and not by the bound."""
        held = np.isfinite(self.held_out)
        return {
            "iterations": self.iterations,
            "held_out": float(self.held_out[held].mean()) if held.any() else None,
            "converged": bool(held.any() and self.converged[held].all()),
        }


class Stopping:
    """Which of K members have converged, and the weights that each of them keeps: ``kept``, first axis the member.

    A look is an improvement where the held-out loss fell by a thousandth; after six in a row without one a member has
    converged. With ``alone`` it then keeps what it has, whatever the others need; else it may improve again for as long
    as they go on. A member that holds nothing out (``holds`` bool [K]) keeps the newest weights and never converges.
    """

    def __init__(self, layers: Sequence[torch.Tensor], holds: torch.Tensor, *, alone: bool = False) -> None:
        self.kept = [tensor.detach().clone() for tensor in layers]
        self.converged = torch.zeros(len(holds), dtype=torch.bool)
        self._holds, self._alone, self._waited = holds, alone, torch.zeros(len(holds))
        self._loss = torch.full((len(holds),), torch.inf)

    def look(self, layers: Sequence[torch.Tensor], loss: torch.Tensor) -> bool:
        """Whether every member that holds something out has converged, at weights ``layers`` of held-out ``loss`` [K].

        A loss of NaN is no improvement: a member that diverged keeps what it had.
        """
        better = (loss < self._loss * (1 - _PROGRESS)) & ~(self.converged & self._alone) | ~self._holds
        self._waited = torch.where(better, 0, self._waited + 1)
        self._loss = torch.where(better, loss, self._loss)
        for kept, now in zip(self.kept, layers, strict=True):
            where = better.to(now.device)
            kept[where] = now.detach()[where]
        self.converged = (self._waited >= _PATIENCE) & self._holds
        return bool(self._holds.any()) and bool((self.converged | ~self._holds).all())

    def training(self, weights: dict[str, np.ndarray], iterations: int) -> Training:
        """What came of it, with ``kept`` as ``weights``."""
        held_out = np.where(self._holds.numpy(), self._loss.double().numpy(), np.nan)
        return Training(weights, held_out, self.converged.numpy(), iterations)
