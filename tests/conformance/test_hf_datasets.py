"""What we write as Hugging Face Parquet, ``datasets`` loads by its card: configurations, splits, features, values."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data_engine.exports.hf_parquet import HFParquetExporter
from tests.conformance.environments import environment
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

READ = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
root = sys.argv[1]
told = {}
for config in get_dataset_config_names(root):
    for split, held in load_dataset(root, config).items():
        rows = [{k: v for k, v in row.items() if k != "observation.images.top"} for row in held]
        sizes = [row["observation.images.top"].size for row in held] if "observation.images.top" in held.features else []
        told[f"{config}/{split}"] = {"rows": rows, "sizes": sizes, "features": {k: str(v) for k, v in held.features.items()}}
print(json.dumps(told))
"""  # noqa: E501


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return environment("datasets", ["datasets==4.4.1", "pillow==12.0.0"])
    except RuntimeError as error:
        pytest.skip(f"no environment for datasets: {error}")


def test_datasets_loads_what_the_card_says(python: Path, tmp_path: Path) -> None:
    write_v3(tmp_path / "one", [5, 4, 3, 6], wide=True, video=True)
    write_v3(tmp_path / "two", [7])
    sources = {name: ("lerobot_v3", tmp_path / name) for name in ("one", "two")}
    mixture = mixture_of(tmp_path / "lake", sources, splits={"train": 0.5, "validation": 0.5})
    HFParquetExporter().export(mixture, str(tmp_path / "out"))
    environ = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-c", READ, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    rows = mixture.episodes.to_pylist()
    assert set(told) == {f"{row['dataset']}/{row['split']}" for row in rows}
    for place, held in told.items():
        mine = [i for i, row in enumerate(rows) if f"{row['dataset']}/{row['split']}" == place]
        mine.sort(key=lambda i: rows[i]["source_key"])
        steps = [mixture.steps(i) for i in mine]
        for name in ("action", "observation.state", "reward", "terminated"):
            expected = [value for table in steps for value in table[name].to_pylist()]
            assert [row[name] for row in held["rows"]] == expected, name
        if place.startswith("one/"):
            points = np.concatenate([np.array(table["keypoints"].to_pylist()) for table in steps])
            read = np.array([row["keypoints"] for row in held["rows"]])
            np.testing.assert_array_equal(read.reshape(points.shape), points)
            assert set(map(tuple, held["sizes"])) == {(80, 64)}
            assert held["features"]["counter"] == "Value('uint8')"
            assert held["features"]["half"] == "List(Value('float16'), length=2)"
