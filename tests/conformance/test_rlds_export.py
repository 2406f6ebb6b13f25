"""What we write as RLDS, tensorflow-datasets opens, and what it serves is what the mixture has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data_engine.exports.rlds import RLDSExporter
from tests.conformance.environments import environment
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

READ = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
found = {}
for split in builder.info.splits:
    config = tfds.ReadConfig(interleave_cycle_length=1)
    for number, episode in enumerate(builder.as_dataset(split=split, shuffle_files=False, read_config=config)):
        rows = {}
        for step in episode["steps"]:
            observation = step.pop("observation")
            for name, value in {**step, **observation}.items():
                rows.setdefault(name, []).append(value.numpy())
        for name, values in rows.items():
            stacked = np.stack(values)
            found[f"{split} {number} {name}"] = stacked.astype("U") if stacked.dtype == object else stacked
        found[f"{split} {number} source_key"] = episode["episode_metadata"]["source_key"].numpy().decode()
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return environment("tfds", ["tensorflow-cpu==2.21.0", "tensorflow-datasets==4.9.10"])
    except RuntimeError as error:
        pytest.skip(f"no environment for tensorflow-datasets: {error}")


def test_tensorflow_datasets_serves_every_value(python: Path, tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [5, 4, 3, 6], wide=True, video=True)
    splits = {"train": 0.5, "val": 0.5}
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, splits=splits)
    RLDSExporter(images="png").export(mixture, str(tmp_path / "out"))
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "NO_GCE_CHECK": "true"}
    command = [str(python), "-c", READ, str(tmp_path / "out" / "made" / "1.0.0"), str(tmp_path / "read.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    count = dict.fromkeys(splits, 0)
    rows = sorted((row["split"], row["source_key"], i) for i, row in enumerate(mixture.episodes.to_pylist()))
    with np.load(tmp_path / "read.npz") as read:
        for split, key, i in rows:
            where = f"{split} {count[split]}"
            count[split] += 1
            steps = mixture.steps(i)
            assert str(read[f"{where} source_key"]) == key
            for name, mine in (("state", "observation.state"), ("action", "action"), ("half", "half"),
                               ("counter", "counter"), ("reward", "reward"), ("is_terminal", "terminated"),
                               ("timestamp", "timestamp")):  # fmt: skip
                theirs = read[f"{where} {name}"]
                np.testing.assert_array_equal(theirs, np.array(steps[mine].to_pylist(), theirs.dtype), err_msg=name)
            assert read[f"{where} half"].dtype == np.float16
            assert read[f"{where} counter"].dtype == np.uint8
            assert read[f"{where} timestamp"].dtype == np.float64
            keypoints = np.array(steps["keypoints"].to_pylist(), np.float32).reshape(-1, 3, 2)
            np.testing.assert_array_equal(read[f"{where} keypoints"], keypoints)
            assert read[f"{where} top"].shape == (len(steps), 64, 80, 3)
            assert read[f"{where} is_first"].tolist() == [True] + [False] * (len(steps) - 1)
