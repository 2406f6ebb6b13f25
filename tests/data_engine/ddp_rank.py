"""MIXTURE CACHE OUT: one rank of ``RANK`` in ``WORLD_SIZE``; they meet over a file in OUT, where no port can be taken.

Trains with DDP over gloo, resumes, and reads through accelerate.
Writes what it saw, and the trained weights, to OUT/<rank>.json.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from data_engine import mixture as mixtures
from data_engine.loader import MixtureDataset, MixtureSampler, MixtureStream, Windows, collate

BATCH, STEPS = 4, 3
WINDOWS = Windows(history=1, action_horizon=2)


def seen(batch: dict) -> list[tuple[int, str, int]]:
    """What a batch holds, by k, episode and step."""
    return list(zip(batch["index"].tolist(), batch["episode_id"], batch["step"].tolist(), strict=True))


def trained(model: torch.nn.Module, batches: list[dict]) -> list[list[float]]:
    """The weights after a step of gradient descent on each batch."""
    for batch in batches:
        model.zero_grad()
        loss = (model(batch["observation.state"][:, 0]) - batch["action"].mean(1)).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * parameter.grad
    return [parameter.detach().reshape(-1).tolist() for parameter in model.parameters()]


def linear() -> torch.nn.Linear:
    """The same model everywhere."""
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    return model


def main() -> None:
    uri, cache, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{out / 'meeting'}", rank=rank, world_size=world)
    mixture = mixtures.open(uri, cache_dir=cache)
    stream = MixtureStream(mixture, WINDOWS, batch_size=BATCH, rank=rank, world_size=world)
    loader = DataLoader(stream, batch_size=None, num_workers=rank, multiprocessing_context="fork" if rank else None)
    first = list(islice(loader, STEPS))
    weights = trained(DistributedDataParallel(linear()), first)
    state = stream.state_dict(first[-1])
    gathered: list = [None] * world
    dist.all_gather_object(gathered, state)
    stream.load_state_dict(gathered[0])  # any rank's does
    rest = [sample for batch in stream for sample in seen(batch)]

    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False))
    dataset = MixtureDataset(mixture, WINDOWS)
    prepared = accelerator.prepare(
        DataLoader(dataset, batch_size=BATCH, sampler=MixtureSampler(dataset), collate_fn=collate)
    )
    through = [seen(batch) for batch in prepared]
    found = {
        "first": [sample for batch in first for sample in seen(batch)], "rest": rest, "weights": weights,
        "states": gathered, "accelerate": through, "processes": accelerator.num_processes,
    }  # fmt: skip
    (out / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may outlive what they hold


if __name__ == "__main__":
    main()
