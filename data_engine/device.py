"""Where arithmetic runs: one answer for scorers, encoders and selections."""

from __future__ import annotations

__all__ = ["device"]


def device() -> str:
    """``cuda`` where there is a GPU that torch can use, else ``cpu``. Imports torch, where it is installed."""
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"
