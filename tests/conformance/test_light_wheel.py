"""The light wheel alone, in an environment of its own, opens a mixture by URI and trains from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine import mixture as mixtures
from data_engine.cache import sha256_of
from data_engine.loader import MixtureDataset, Windows
from data_engine.model import Dataset, Feature

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")

TRAINER = """
import importlib.util, json, sys
from importlib.metadata import distributions, entry_points
import data_engine.client
import data_engine.mixture
mixture = data_engine.mixture.open(sys.argv[1])
plain = [[int(s["index"]), float(s["action"][0, 1])] for s in mixture.samples()]
without_torch = "torch" not in sys.modules
from torch.utils.data import DataLoader
from data_engine.loader import MixtureDataset, MixtureSampler, Windows, collate
dataset = MixtureDataset(mixture, Windows(history=2, action_horizon=4, normalise="mean_std"))
loader = DataLoader(dataset, batch_size=8, sampler=MixtureSampler(dataset), collate_fn=collate)
from data_engine.registry import names
print(json.dumps({
    "plain": plain,
    "without_torch": without_torch,
    "torch": [batch["action"].double().sum().item() for batch in loader],
    "absent": [m for m in ("polars", "deltalake", "prefect", "ray", "av", "h5py") if not importlib.util.find_spec(m)],
    "packages": [p for p in ("data_engine", "storage", "flows", "scorers", "api") if importlib.util.find_spec(p)],
    "formats": names("formats"), "scorers": names("scorers"),
    "installed": sorted(d.name for d in distributions()),
}))
"""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a fresh environment that holds the light wheel and torch."""
    if UV is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("light")
    run(UV, "build", "-q", "--wheel", str(ROOT / "infra/light"), "--out-dir", str(folder))
    (wheel,) = folder.glob("data_engine_core-*.whl")
    run(UV, "venv", "-q", "--python", sys.executable, str(folder / "venv"))
    python = folder / "venv" / "bin" / "python"
    run(UV, "pip", "install", "-q", "--python", str(python), f"{wheel}[torch]")
    return python


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_trainer_needs_nothing_but_the_light_wheel(trainer: Path, tmp_path: Path) -> None:
    uri = mixture_in(tmp_path / "lake")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DATA_ENGINE_CACHE": str(tmp_path / "cache")}
    said = json.loads(run(str(trainer), "-c", TRAINER, f"file://{uri}", cwd=tmp_path, env=environment))
    here = mixtures.open(uri, cache_dir=tmp_path / "here")
    assert said["plain"] == [[int(s["index"]), float(s["action"][0, 1])] for s in here.samples()]
    dataset = MixtureDataset(here, Windows(history=2, action_horizon=4, normalise="mean_std"))
    sums = [
        dataset.__getitems__(list(range(k, min(k + 8, 40)))).tensors["action"].double().sum().item()
        for k in range(0, 40, 8)
    ]
    assert said["torch"] == pytest.approx(sums)
    assert said["without_torch"]
    assert said["absent"] == ["polars", "deltalake", "prefect", "ray", "av", "h5py"]
    assert said["packages"] == ["data_engine"]
    assert "lerobot_v3" in said["formats"]
    assert said["scorers"] == []
    assert "data-engine-core" in said["installed"]


def mixture_in(lake: Path) -> str:
    """A mixture of two episodes of 20 steps."""
    (lake / "steps").mkdir(parents=True)
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32).tolist()
    identity = {"episode_id": ["ep_0"] * 20 + ["ep_1"] * 20, "step": [*range(20)] * 2}
    lists = pa.array(values, pa.list_(pa.float32()))
    time = [t / 10 for t in range(20)] * 2
    table = pa.table({**identity, "timestamp": time, "observation.state": lists, "action": lists})
    pq.write_table(table, lake / "steps/0.parquet")
    file = {"path": "steps/0.parquet", "bytes": (lake / "steps/0.parquet").stat().st_size}
    features = tuple(Feature(name=name, dtype="float32", shape=(3,)) for name in ("observation.state", "action"))
    arms = Dataset(name="arms", embodiment="arm", fps=10, features=features, origin="made up", format="toy")
    rows = [
        {
            "episode_id": f"ep_{i}", "content_hash": f"{i}" * 64, "dataset": "arms", "source_key": str(i),
            "embodiment": "arm", "control_mode": "unspecified", "fps": 10.0, "task": "reach", "selection": "all",
            "start": 0, "stop": 20, "weight": 1.0, "steps_file": file["path"], "row_start": 20 * i, "row_count": 20,
        }
        for i in range(2)
    ]  # fmt: skip
    frozen = mixtures.freeze(
        name="light",
        episodes=pa.Table.from_pylist(rows),
        files=pa.Table.from_pylist([file | {"sha256": sha256_of(lake / file["path"])}], mixtures.FILES),
        datasets={"arms": arms},
        entries=[{"selection": "all", "weight": 1}],
        steps=lambda i: table.slice(20 * i, 20).drop_columns(["episode_id", "step"]),
    )
    return mixtures.write(frozen, str(lake))
