"""ARRAYS.npz STEPS: DemInf's recipe in plain torch, as one would write it down from the paper, on one thread.

A beta-VAE for states and one for actions (two hidden layers of 512, codes of 12 and 6, beta 0.05, Adam at 1e-4, batches
of 256; Hejna et al. 2025, the configuration for robomimic) of so many training steps each; then four passes over all
steps in shuffled batches of 1,024: Kraskov's estimate for k of 5, 6 and 7 from whole distance matrices, the larger of
the distances of the two codes.
"""

import sys

import numpy as np
import torch
from figures import Work
from torch import nn

BATCH, PASSES, KS = 1024, 4, (5, 6, 7)


class VAE(nn.Module):
    def __init__(self, width: int, latent: int, hidden: int = 512) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decode = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self.encode(x).chunk(2, dim=1)
        decoded = self.decode(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return (((decoded - x) ** 2).sum(1) + 0.05 * divergence).mean()


def trained(x: torch.Tensor, latent: int, steps: int) -> torch.Tensor:
    """The mean codes of ``x`` after so many steps of training."""
    model = VAE(x.shape[1], latent)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(steps):
        loss = model.loss(x[torch.randint(len(x), (256,))])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return model.encode(x)[:, :latent]


def nats(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Each step's information in nats within its batch."""
    ds, da = torch.cdist(state, state), torch.cdist(action, action)
    radii = torch.maximum(ds, da).topk(KS[-1] + 1, largest=False).values  # the step itself is the nearest
    found = []
    for k in KS:
        inside = [(d < radii[:, k : k + 1]).sum(1).double() for d in (ds, da)]
        found.append(-sum(torch.digamma(count) for count in inside))
    return torch.stack(found).mean(0)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arrays, steps = np.load(sys.argv[1]), int(sys.argv[2])
    state, action = (torch.from_numpy(arrays[name].astype(np.float32)) for name in ("state", "action"))
    nats(state[:BATCH], action[:BATCH])
    work = Work()
    codes = [
        trained((x - x.mean(0)) / x.std(0).clamp_min(1e-6), latent, steps) for x, latent in ((state, 12), (action, 6))
    ]
    trained_s = work.seconds
    total = torch.zeros(len(state), dtype=torch.float64)
    for _ in range(PASSES):
        for rows in torch.randperm(len(state)).split(BATCH):
            if len(rows) > KS[-1]:
                total[rows] += nats(*(x[rows] for x in codes)) / PASSES
    work.report("torch", "DemInf", len(state), trained_s=trained_s, nats=float(total.mean()))


if __name__ == "__main__":
    main()
