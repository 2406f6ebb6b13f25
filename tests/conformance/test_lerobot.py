"""What we write opens in lerobot 0.4.4's own LeRobotDataset, and what it serves is what the source had."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_engine.exports.lerobot_episodes import LeRobotEpisodesExporter
from data_engine.exports.lerobot_v3 import LeRobotV3Exporter
from data_engine.formats import Source
from data_engine.formats.lerobot_v2 import LeRobotV2
from data_engine.formats.lerobot_v3 import LeRobotV3
from data_engine.video import FrameReader
from tests.conformance.environments import environment
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

READ = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

root, asked = sys.argv[1], json.loads(sys.argv[2])
options = {"delta_timestamps": asked["deltas"], "episodes": asked["episodes"], "video_backend": "pyav"}
ds = LeRobotDataset("local/set", root=root, **options)
columns = asked["columns"]
out = {name: [] for name in columns}
items = range(len(ds)) if asked["items"] is None else asked["items"]
tasks, frames, pads = [], [], []
for i in items:
    item = ds[i]
    for name in columns:
        out[name].append(np.asarray(item[name]))
    tasks.append(item["task"])
    frames += [np.asarray(item[name]) for name in ds.meta.video_keys]
    pads += [np.asarray(value) for key, value in sorted(item.items()) if key.endswith("_is_pad")]
np.savez(asked["out"], **{name: np.stack(values) for name, values in out.items()},
         **({"frames": np.stack(frames)} if frames else {}), **({"pads": np.stack(pads)} if pads else {}))
stats = {name: {key: np.asarray(value).shape for key, value in stat.items()} for name, stat in ds.meta.stats.items()}
print(json.dumps({"frames": ds.num_frames, "episodes": ds.num_episodes, "fps": ds.fps, "tasks": tasks, "stats": stats,
                  "total": ds.meta.total_episodes, "robot": ds.meta.robot_type, "splits": ds.meta.info["splits"]}))
"""


@pytest.fixture(scope="module")
def lerobot() -> Path:
    try:
        return environment("lerobot", ["lerobot==0.4.4"])
    except RuntimeError as error:
        pytest.skip(f"no environment for lerobot: {error}")


def served(
    python: Path,
    root: Path,
    tmp_path: Path,
    columns: list[str],
    *,
    deltas: dict[str, list[float]] | None = None,
    items: list[int] | None = None,
    episodes: list[int] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What LeRobotDataset tells of the set at ``root`` and the values that it serves."""
    out = tmp_path / "served.npz"
    asked = {"columns": columns, "deltas": deltas, "items": items, "episodes": episodes, "out": str(out)}
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_DATASETS_CACHE": str(tmp_path / "hf/datasets"),
    }
    command = [str(python), "-c", READ, str(root), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]), dict(np.load(out))


def test_serves_states_actions_and_windows(lerobot: Path, shared_data: Path, tmp_path: Path) -> None:
    keys = [f"episode_{i:06d}" for i in (0, 1, 70, 150)]
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("lerobot_v3", origin)}, keys=keys)
    LeRobotV3Exporter().export(mixture, str(tmp_path / "out"))

    columns = ["observation.state", "action", "next.reward", "next.success", "timestamp", "frame_index", "index"]
    told, values = served(lerobot, tmp_path / "out", tmp_path, columns)

    source = Source(str(origin))
    reader = LeRobotV3()
    probe = reader.probe(source)
    assert probe is not None
    episodes = list(reader.read(source, probe, keys))
    for name, canonical in (
        ("observation.state", "observation.state"),
        ("action", "action"),
        ("next.reward", "reward"),
    ):
        expected = np.concatenate([np.array(e.steps[canonical].to_pylist(), np.float32) for e in episodes])
        np.testing.assert_array_equal(values[name].reshape(expected.shape), expected)
    n = len(values["index"])
    np.testing.assert_array_equal(values["index"].ravel(), np.arange(n))
    np.testing.assert_allclose(values["timestamp"].ravel(), values["frame_index"].ravel() / 20, atol=1e-6)
    assert told["tasks"] == [e.task for e in episodes for _ in range(e.steps.num_rows)]
    assert (told["episodes"], told["frames"], told["robot"], told["fps"]) == (4, n, "sawyer", 20)
    assert told["splits"] == {"train": "0:4"}
    for stat in told["stats"].values():
        assert {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"} <= stat.keys()

    length = episodes[0].steps.num_rows
    _, windows = served(
        lerobot,
        tmp_path / "out",
        tmp_path,
        ["action"],
        deltas={"action": [i / 20 for i in range(16)]},
        items=[0, length - 3],
    )
    actions = np.array(episodes[0].steps["action"].to_pylist(), np.float32)
    np.testing.assert_array_equal(windows["action"][0], actions[:16])
    np.testing.assert_array_equal(windows["action"][1], np.concatenate([actions[-3:], np.repeat(actions[-1:], 13, 0)]))
    np.testing.assert_array_equal(windows["pads"][1], np.arange(16) >= 3)

    chosen, some = served(lerobot, tmp_path / "out", tmp_path, ["episode_index"], episodes=[1, 3])
    assert chosen["episodes"] == 2
    assert set(some["episode_index"].ravel().tolist()) == {1, 3}


def test_serves_video_frames_of_episodes_and_step_ranges(lerobot: Path, shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "g1_lerobot_v21"
    # odd starts are no keyframes of these files (g=2), so they must be encoded again
    ranges = [("episode_000000", 0, 40, 1.0), ("episode_000002", 100, 140, 2.0), ("episode_000003", 51, 71, 1.0)]
    mixture = mixture_of(tmp_path / "lake", {"g1": ("lerobot_v2", origin)}, ranges=ranges)
    LeRobotV3Exporter().export(mixture, str(tmp_path / "out"))
    items = [0, 1, 39, 40, 41, 79, 80, 99]
    told, values = served(lerobot, tmp_path / "out", tmp_path, ["observation.state"], items=items)
    assert (told["episodes"], told["frames"]) == (3, 100)
    assert told["stats"]["observation.images.cam_high"]["mean"] == [3, 1, 1]
    assert told["stats"]["observation.images.cam_high"]["count"] == [1]

    source = Source(str(origin))
    reader = LeRobotV2()
    probe = reader.probe(source)
    assert probe is not None
    where = [(0, 0), (0, 1), (0, 39), (2, 100), (2, 101), (2, 139), (3, 51), (3, 70)]
    episodes = {i: next(iter(reader.read(source, probe, [f"episode_{i:06d}"]))) for i in (0, 2, 3)}
    states = [episodes[i].steps["observation.state"][step].as_py() for i, step in where]
    np.testing.assert_array_equal(values["observation.state"], np.array(states, np.float32))
    for got, (i, step) in zip(values["frames"], where, strict=True):
        path = origin / episodes[i].cameras["cam_high"].path
        with FrameReader(path) as frames:
            expected = frames.at([step / 30])[0].transpose(2, 0, 1) / 255.0
        error = np.abs(got - expected).mean()
        assert error < (0.01 if i == 3 else 0.004), (i, step, error)  # 3 was encoded again; colour conversion differs


def test_serves_original_dtypes_and_wider_shapes(lerobot: Path, tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [6, 9], wide=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    LeRobotV3Exporter().export(mixture, str(tmp_path / "out"))
    told, values = served(lerobot, tmp_path / "out", tmp_path, ["action", "keypoints", "counter", "half"])
    assert told["frames"] == 15
    expected = np.arange(15 * 6, dtype=np.float32).reshape(15, 3, 2)
    np.testing.assert_array_equal(values["keypoints"], expected)
    np.testing.assert_array_equal(values["counter"].ravel(), np.arange(15) % 256)
    info = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())
    assert {name: info["features"][name]["dtype"] for name in ("counter", "half")} == {
        "counter": "uint8",
        "half": "float16",
    }


def test_lists_and_weights_are_lerobots_own_numbers(lerobot: Path, shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    keys = [f"episode_{i:06d}" for i in (5, 151)]
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("lerobot_v3", origin)}, keys=keys)
    LeRobotEpisodesExporter(sources={"tiers": str(origin)}).export(mixture, str(tmp_path / "out"))
    listed = json.loads((tmp_path / "out" / "episodes.json").read_text())["train"]["tiers"]
    weights = pq.read_table(tmp_path / "out" / "weights/train/tiers.parquet")
    told, values = served(lerobot, Path(listed["root"]), tmp_path, ["index"], episodes=listed["episodes"])
    assert (told["episodes"], told["frames"]) == (2, listed["frames"])
    np.testing.assert_array_equal(values["index"].ravel(), weights["index"])
