"""ARRAYS.npz OUT: frames a second of lerobot's own writer (AV1 video where there are images)."""

import sys

import numpy as np
from figures import Work
from lerobot.datasets.lerobot_dataset import LeRobotDataset

NAMES = {"state": "observation.state", "action": "action", "image": "observation.images.top"}


def main() -> None:
    arrays = dict(np.load(sys.argv[1]))
    stops, fps = arrays.pop("stops"), int(arrays.pop("fps"))
    columns, features = {}, {}
    for key, values in arrays.items():
        kind = ("video", ["height", "width", "channels"]) if key == "image" else ("float32", None)
        columns[NAMES[key]] = values if key == "image" else values.astype(np.float32)
        features[NAMES[key]] = {"dtype": kind[0], "shape": values.shape[1:], "names": kind[1]}
    work = Work()
    dataset = LeRobotDataset.create("local/set", fps=fps, features=features, root=sys.argv[2])
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        for row in range(start, stop):
            dataset.add_frame({**{name: values[row] for name, values in columns.items()}, "task": "the task"})
        dataset.save_episode()
    dataset.finalize()
    work.report("lerobot 0.4.4", "write", int(stops[-1]))


if __name__ == "__main__":
    main()
