"""Train on what a lake's service has: query, freeze, fetch, and clone the behaviour. Stands on data_engine and torch.

    python examples/train_from_service.py --url http://robots.lab:8321 --where "success AND percentile(composite) > 50"

The key is read from DATA_ENGINE_KEY. The mixture's id names the data exactly: the same one trains the same again, and
`client.evaluated(...)` brings back what its policies were worth.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import nn
from torch.utils.data import DataLoader

from data_engine.client import Client
from data_engine.loader import MixtureDataset, MixtureSampler, Windows, collate

STATE, ACTION, PADDED = "observation.state", "action", "action_is_pad"


def main() -> None:
    """Query, freeze and train, by the options on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of the service; default: DATA_ENGINE_URL")
    parser.add_argument("--where", default="success", help="which episodes")
    parser.add_argument("--name", default="from_service", help="of the selection and the mixture")
    parser.add_argument("--steps", type=int, default=1000, help="of gradient descent")
    parser.add_argument("--horizon", type=int, default=8, help="actions that are predicted at once")
    asked = parser.parse_args()

    lake = Client(asked.url)
    found = lake.episodes(asked.where, columns=["episode_id", "task", "n_steps"])
    print(f"{len(found)} episodes, {sum(found['n_steps'].to_pylist())} steps")
    lake.select(asked.name, where=asked.where)
    frozen = lake.freeze(asked.name, [asked.name])
    mixture = lake.mixture(frozen["mixture_id"])  # its files are fetched, and held against their hashes

    torch.manual_seed(0)
    data = MixtureDataset(mixture, Windows(action_horizon=asked.horizon, normalise="mean_std", cameras=()))
    batches = DataLoader(data, batch_size=64, sampler=MixtureSampler(data), collate_fn=collate)
    policy = nn.Sequential(nn.LazyLinear(256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.LazyLinear(_width(data)))
    policy(next(iter(batches))[STATE].flatten(1).float())  # the lazy layers take their width from the first batch
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    losses: list[float] = []
    while len(losses) < asked.steps:
        for batch in batches:
            told = ~batch[PADDED].unsqueeze(-1)
            error = policy(batch[STATE].flatten(1).float()).view(batch[ACTION].shape) - batch[ACTION].float()
            loss = (error.square() * told).sum() / (told.sum() * error.shape[-1])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if len(losses) == asked.steps:
                break
    tenth = max(len(losses) // 10, 1)
    first, last = (sum(part) / len(part) for part in (losses[:tenth], losses[-tenth:]))
    print(json.dumps({"mixture_id": mixture.id, "samples": len(data), "first_loss": first, "last_loss": last}))


def _width(data: MixtureDataset) -> int:
    return int(data[0][ACTION].numel())


if __name__ == "__main__":
    main()
