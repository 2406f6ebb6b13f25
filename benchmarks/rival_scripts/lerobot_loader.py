"""ROOT BACKEND WORKERS SECONDS ROUNDS: windows a second of LeRobotDataset through torch's DataLoader."""

import json
import sys
from pathlib import Path

from figures import Work
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch import Generator
from torch.utils.data import DataLoader


def main() -> None:
    root, backend, workers, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    rounds = int(sys.argv[5])
    fps = json.loads(Path(root, "meta/info.json").read_text())["fps"]
    chunk = {"action": [i / fps for i in range(16)]}
    video = {} if backend == "none" else {"video_backend": backend}
    dataset = LeRobotDataset("local/set", root=root, delta_timestamps=chunk, **video)
    order = Generator().manual_seed(0)
    batches = DataLoader(dataset, batch_size=64, shuffle=True, generator=order, num_workers=workers)
    stream = iter(batches)
    next(stream)  # caches and workers warm
    work, windows, rates = Work(), 0, []
    for _ in range(rounds):
        part, before = Work(), windows
        while part.seconds < limit:
            batch = next(stream, None)
            if batch is None:
                stream = iter(batches)
            else:
                windows += len(batch["action"])
        rates.append((windows - before) / part.seconds)
    work.report("lerobot 0.4.4", "windows", windows, rates=rates, backend=backend, workers=workers)


if __name__ == "__main__":
    main()
