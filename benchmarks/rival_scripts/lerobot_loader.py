"""ROOT BACKEND WORKERS SECONDS ROUNDS [FORM]: windows a second of lerobot's datasets through torch's DataLoader.

FORM: ``map`` (LeRobotDataset, default), ``streaming`` (StreamingLeRobotDataset) or ``multi`` (MultiLeRobotDataset).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from figures import Work, measured
from lerobot.datasets.lerobot_dataset import LeRobotDataset, MultiLeRobotDataset
from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset
from torch import Generator
from torch.utils.data import DataLoader


def windows(batches: DataLoader) -> Iterator[int]:
    """The windows of each batch, epoch after epoch."""
    while True:
        for batch in batches:
            yield len(batch["action"])


def main() -> None:
    work = Work()
    root, backend, workers, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    rounds, form = int(sys.argv[5]), (sys.argv[6:] or ["map"])[0]
    fps = json.loads(Path(root, "meta/info.json").read_text())["fps"]
    chunk = {"action": [i / fps for i in range(16)]}
    video = {} if backend == "none" else {"video_backend": backend}
    ordered = {"shuffle": True, "generator": Generator().manual_seed(0)}
    if form == "streaming":
        dataset, ordered = StreamingLeRobotDataset("local/set", root=root, delta_timestamps=chunk), {}
    elif form == "multi":
        place = Path(root)
        dataset = MultiLeRobotDataset([place.name], root=place.parent, delta_timestamps=chunk, **video)
    else:
        dataset = LeRobotDataset("local/set", root=root, delta_timestamps=chunk, **video)
    batches = DataLoader(dataset, batch_size=64, num_workers=workers, persistent_workers=workers > 0, **ordered)
    measured(work, "lerobot 0.4.4", windows(batches), limit, rounds, backend=backend, workers=workers, form=form)


if __name__ == "__main__":
    main()
