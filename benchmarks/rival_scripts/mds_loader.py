"""ROOT WORKERS SECONDS ROUNDS: steps a second of mosaicml-streaming over our MDS shards, shuffled, in batches of 64.

A sample is one step: MDS gives no windows, so this is less work than a window of 16 actions.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from figures import Work, measured
from streaming import Stream, StreamingDataset
from torch.utils.data import DataLoader


def main() -> None:
    work = Work()
    root, workers, limit, rounds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    told = json.loads(Path(root, "streams.json").read_text())["train"]
    streams = [Stream(local=f"{root}/{item.pop('local')}", **item) for item in told.pop("streams")]
    dataset = StreamingDataset(streams=streams, shuffle=True, batch_size=64, **told)
    batches = DataLoader(dataset, batch_size=64, num_workers=workers, persistent_workers=workers > 0)

    def steps() -> Iterator[int]:
        while True:
            for batch in batches:
                yield len(batch["action"])

    measured(work, "mosaicml-streaming 0.13.0", steps(), limit, rounds, workers=workers)


if __name__ == "__main__":
    main()
