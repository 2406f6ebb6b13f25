"""MIXTURE CACHE WORKERS SECONDS ROUNDS [CAMERAS]: action-chunk windows a second of MixtureDataset.

WORKERS is a number for torch's DataLoader in batches of 64, or ``single`` for one window at a time without it.
CAMERAS: ``video`` decodes every camera's frame with the window, ``none`` (default) decodes nothing.
"""

import sys
from collections.abc import Iterator

from torch.utils.data import DataLoader

from benchmarks.rival_scripts.figures import Work, measured
from data_engine import mixture as mixtures
from data_engine.loader import MixtureDataset, MixtureSampler, Windows, collate


def epochs(dataset: MixtureDataset, workers: int) -> Iterator[int]:
    """The windows of each batch of 64, epoch after epoch."""
    sampler = MixtureSampler(dataset)
    batches = DataLoader(
        dataset, 64, sampler=sampler, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
    )
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        for batch in batches:
            yield len(batch["action"])
        epoch += 1


def singles(dataset: MixtureDataset) -> Iterator[int]:
    """One window at a time."""
    while True:
        for k in range(len(dataset)):
            dataset[k]
            yield 1


def main() -> None:
    work = Work()
    uri, cache, workers, limit = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    rounds = int(sys.argv[5])
    cameras = None if sys.argv[6:] == ["video"] else ()
    dataset = MixtureDataset(mixtures.open(uri, cache_dir=cache), Windows(action_horizon=16, cameras=cameras))
    stream = singles(dataset) if workers == "single" else epochs(dataset, int(workers))
    measured(work, "data-engine", stream, limit, rounds, workers=workers)


if __name__ == "__main__":
    main()
