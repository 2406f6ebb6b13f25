"""ARRAYS.npz PASSES: pointwise KSG estimates by our kernel, each step within its shuffled batch of 1,024."""

import sys

import numpy as np
import torch

from benchmarks.rival_scripts.figures import Work
from scorers.kernels.ksg import pointwise

BATCH = 1024


def passes(state: np.ndarray, action: np.ndarray, times: int) -> np.ndarray:
    """Nats of each step, float64 [n], the mean of ``times`` passes."""
    nats = np.zeros((times, len(state)))
    for number in range(times):
        order = np.random.default_rng(number).permutation(len(state))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            s, a = state[rows], action[rows]
            nats[number, rows] = pointwise(s, a, s, a, owner=rows, reference_owner=rows)
    return nats.mean(axis=0)


def main() -> None:
    torch.set_num_threads(1)  # as scikit-learn has
    arrays = np.load(sys.argv[1])
    state, action = arrays["state"].astype(np.float32), arrays["action"].astype(np.float32)
    passes(state[:BATCH], action[:BATCH], 1)
    work = Work()
    nats = passes(state, action, int(sys.argv[2]))
    work.report("data-engine", "ksg", len(state), nats=float(np.nanmean(nats)))


if __name__ == "__main__":
    main()
