"""What we write as robomimic HDF5, robomimic's own SequenceDataset serves: by mask key, in windows, frames too."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data_engine.exports.robomimic import RobomimicExporter
from data_engine.exports.rows import export_order
from tests.conformance.environments import environment
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

OVERRIDES = Path(__file__).with_name("robomimic_overrides.txt")
READ = """
import json, sys
import numpy as np
import robomimic.utils.obs_utils as obs_utils
from robomimic.utils.dataset import SequenceDataset
from robomimic.utils.file_utils import get_env_metadata_from_dataset, get_shape_metadata_from_dataset

root, out = sys.argv[1:]
obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"], "rgb": ["top"]}})
config = json.load(open(f"{root}/train.json"))["train"]
found = {}
for item in config["data"]:
    held = SequenceDataset(
        f"{root}/{item['path']}", obs_keys=("state", "top"), dataset_keys=("actions", "rewards", "dones"),
        seq_length=3, hdf5_cache_mode=None, filter_by_attribute=item["filter_key"],
        load_next_obs=config["hdf5_load_next_obs"],
    )
    for i in range(len(held)):
        sample = held[i]
        demo = held._index_to_demo_id[i]
        step = i - held._demo_id_to_start_indices[demo]
        for name in ("actions", "rewards", "dones"):
            found[f"{item['filter_key']} {demo} {step} {name}"] = sample[name]
        for name, value in sample["obs"].items():
            found[f"{item['filter_key']} {demo} {step} {name}"] = value
np.savez(out, **found)
path = f"{root}/{config['data'][0]['path']}"
shapes = get_shape_metadata_from_dataset(path, all_obs_keys=["state", "top"])
print(json.dumps({"env": get_env_metadata_from_dataset(path), "ac_dim": shapes["ac_dim"]}))
"""


def test_sequence_dataset_serves_what_the_mixture_holds(tmp_path: Path) -> None:
    try:
        python = environment("robomimic", ["robomimic==0.3.0", "six", "--override", str(OVERRIDES)])
    except RuntimeError as error:
        pytest.skip(f"no environment for robomimic: {error}")
    write_v3(tmp_path / "set", [5, 4, 3], video=True)
    ranges = [("episode_000000", 0, 5, 1.0), ("episode_000001", 1, 4, 3.0), ("episode_000002", 0, 3, 1.0)]
    mixture = mixture_of(
        tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=ranges, weight_kind="repeat",
        unit="episode",
    )  # fmt: skip
    RobomimicExporter().export(mixture, str(tmp_path / "out"))
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), "-c", READ, str(tmp_path / "out"), str(tmp_path / "read.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ac_dim"] == 2
    assert told["env"]["env_kwargs"]["control_freq"] == mixture.datasets["made"].fps
    served: dict[str, set[str]] = {}
    with np.load(tmp_path / "read.npz") as read:
        for place in read.files:
            key, demo, step, name = place.split(" ")
            served.setdefault(key, set()).add(demo)
            steps = mixture.steps(export_order(mixture)[int(demo.removeprefix("demo_"))])
            if name == "top":
                assert read[place].shape[-1] == 3 or read[place].shape[-3] == 3
                continue
            column = {"state": "observation.state", "actions": "action", "rewards": "reward", "dones": "terminated"}
            expected = np.array(steps[column[name]].to_pylist())[int(step) :][: len(read[place])]
            np.testing.assert_allclose(read[place][: len(expected)], expected, err_msg=place)
    assert served == {"train__made": {"demo_1"}, "train__made__w1": {"demo_0", "demo_2"}}
