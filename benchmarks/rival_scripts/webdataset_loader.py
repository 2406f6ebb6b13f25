"""ROOT SECONDS ROUNDS: windows a second of WebDataset over our tar shards, an episode a sample.

As its users do it: shards in random order, each episode cut into windows of 16 actions, a shuffle buffer of 1,000,
batches of 64. No workers.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import webdataset
from figures import Work, measured


def cut(samples: Iterator[dict]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(state, the next 16 actions) of each step."""
    for sample in samples:
        state, action = sample["observation.state.npy"], sample["action.npy"]
        padded = np.concatenate([action, np.repeat(action[-1:], 15, axis=0)])
        for t in range(len(state)):
            yield state[t], padded[t : t + 16]


def main() -> None:
    work = Work()
    root, limit, rounds = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    shards = [str(path) for path in sorted(root.rglob("*.tar"))]
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).decode().compose(cut)

    def windows() -> Iterator[int]:
        while True:
            for _, action in dataset.shuffle(1000).batched(64):
                yield len(action)

    measured(work, "webdataset 1.0.2", windows(), limit, rounds)


if __name__ == "__main__":
    main()
