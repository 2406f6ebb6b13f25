"""What we write as MDS and as WebDataset, mosaicml-streaming and webdataset serve, value by value."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_engine.exports.mds import MDSExporter
from data_engine.exports.rows import export_order
from data_engine.exports.webdataset import WebDatasetExporter
from data_engine.mixture import Mixture
from tests.conformance.environments import environment
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

MDS = """
import json, sys
import numpy as np
from streaming import Stream, StreamingDataset
root, out = sys.argv[1:]
told = json.load(open(f"{root}/streams.json"))["train"]
found = {}
streams = [Stream(local=f"{root}/{item.pop('local')}", **item) for item in told.pop("streams")]
whole = StreamingDataset(streams=streams, shuffle=True, batch_size=4, **told)
drawn = [int(sample["episode_index"]) for sample in whole]
for stream in streams:
    held = StreamingDataset(local=stream.local, shuffle=False, batch_size=1)
    for i in range(len(held)):
        sample = held[i]
        for name, value in sample.items():
            found[f"{sample['episode_index']} {sample['frame_index']} {name}"] = np.asarray(value)
np.savez(out, **found)
print(json.dumps({"drawn": drawn}))
"""

WEBDATASET = """
import sys
import numpy as np, webdataset
found = {}
for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False).decode():
    for name, value in sample.items():
        if isinstance(value, np.ndarray):
            found[f"{sample['__key__']} {name}"] = value
    found[f"{sample['__key__']} source_key"] = sample["json"]["source_key"]
np.savez(sys.argv[2], **found)
"""


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    write_v3(tmp_path / "set", [5, 4, 3], wide=True, video=True)
    ranges = [("episode_000000", 0, 5, 1.0), ("episode_000001", 1, 4, 3.0), ("episode_000002", 0, 3, 1.0)]
    sources = {"made": ("lerobot_v3", tmp_path / "set")}
    return mixture_of(tmp_path / "lake", sources, ranges=ranges, weight_kind="repeat", unit="episode")


def ran(name: str, packages: list[str], script: str, tmp_path: Path, *arguments: Any) -> str:
    try:
        python = environment(name, packages)
    except RuntimeError as error:
        pytest.skip(f"no environment for {name}: {error}")
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_streaming_serves_every_value_as_often_as_the_mixture_says(mixture: Mixture, tmp_path: Path) -> None:
    MDSExporter(images="png").export(mixture, str(tmp_path / "out"))
    arguments = (tmp_path / "out", tmp_path / "read.npz")
    told = json.loads(ran("streaming", ["mosaicml-streaming==0.13.0"], MDS, tmp_path, *arguments).splitlines()[-1])
    assert np.bincount(told["drawn"]).tolist() == [5, 9, 3]
    with np.load(tmp_path / "read.npz") as read:
        for i, row in enumerate(export_order(mixture)):
            steps = mixture.steps(row)
            for step in range(len(steps)):
                for name in ("observation.state", "action", "half", "counter", "reward", "terminated"):
                    value = read[f"{i} {step} {name}"]
                    assert value.tolist() == steps[name][step].as_py(), name
                points = read[f"{i} {step} keypoints"]
                assert points.shape == (3, 2)
                assert points.ravel().tolist() == steps["keypoints"][step].as_py()
                assert read[f"{i} {step} observation.images.top"].shape == (64, 80, 3)


def test_webdataset_serves_every_array(mixture: Mixture, tmp_path: Path) -> None:
    WebDatasetExporter().export(mixture, str(tmp_path / "out"))
    places = {f"{number:09d}": row for number, row in enumerate(export_order(mixture))}
    seen = set()
    for shard in sorted((tmp_path / "out").rglob("*.tar")):
        ran("webdataset", ["webdataset==1.0.2"], WEBDATASET, tmp_path, shard, tmp_path / "read.npz")
        with np.load(tmp_path / "read.npz") as read:
            for name in read.files:
                key, field = name.split(" ")
                steps = mixture.steps(places[key])
                seen.add(key)
                if field in ("action.npy", "half.npy", "counter.npy", "reward.npy"):
                    assert read[name].tolist() == steps[field.removesuffix(".npy")].to_pylist(), field
            assert read[f"{key} counter.npy"].dtype == np.uint8
            assert read[f"{key} half.npy"].dtype == np.float16
    assert seen == set(places)
