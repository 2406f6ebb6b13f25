"""ROOT OUT: seconds in which lerobot's own delete_episodes makes OUT of ROOT without its first episode."""

import sys

from figures import Work
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main() -> None:
    dataset = LeRobotDataset("local/set", root=sys.argv[1])
    work = Work()
    left = delete_episodes(dataset, [0], output_dir=sys.argv[2], repo_id="local/less")
    work.report("lerobot 0.4.4", "delete", left.meta.total_episodes)


if __name__ == "__main__":
    main()
