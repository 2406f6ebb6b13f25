"""SOURCE frames|values: episodes a second by tensorflow-datasets, with or without decoding images; warmed up once.

``values`` skips the decoding of the steps, which leaves each feature as one tensor an episode, images as coded: the
least that TFDS can do. ``frames`` decodes all, steps in batches of 16.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow_datasets as tfds
from figures import Work


def read(folder: str, decode: bool) -> int:
    builder = tfds.builder_from_directory(folder)
    decoders = None if decode else {"steps": tfds.decode.SkipDecoding()}
    n = 0
    for split in builder.info.splits:
        for episode in builder.as_dataset(split=split, decoders=decoders):
            n += 1
            batches = episode["steps"].batch(16) if decode else [episode["steps"]]
            for steps in batches:
                for value in (steps["action"], steps["observation"]["state"], *steps["observation"].values()):
                    value.numpy()
    return n


def main() -> None:
    decode = sys.argv[2] == "frames"
    warm = Work()
    read(sys.argv[1], decode)
    warm_up = warm.seconds
    work = Work()
    n = read(sys.argv[1], decode)
    work.report("tensorflow-datasets", f"read RLDS {sys.argv[2]}", n, warm_up_s=warm_up)


if __name__ == "__main__":
    main()
