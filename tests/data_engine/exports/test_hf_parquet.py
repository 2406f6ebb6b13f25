from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data_engine.errors import RequestError
from data_engine.exports.hf_parquet import HFParquetExporter
from data_engine.exports.rates import rates
from tests.data_engine.exports.holes import with_holes
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of


def card(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "README.md").read_text().split("---\n")[1])


def test_the_real_sets_are_configurations_of_one(shared_data: Path, tmp_path: Path) -> None:
    sources = {
        "tiers": ("lerobot_v3", shared_data / "metaworld_tiers" / "lerobot_v3"),
        "bridge": ("rlds", shared_data / "bridge_rlds" / "1.0.0"),
    }
    keys = ["episode_000000", "episode_000100", "train/00000/000003"]
    mixture = mixture_of(tmp_path / "lake", sources, keys=keys)
    exporter = HFParquetExporter()
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    told = card(tmp_path / "out")
    assert [config["config_name"] for config in told["configs"]] == ["bridge", "tiers"]
    assert told["configs"][1]["data_files"] == [{"split": "train", "path": "data/tiers/train-*.parquet"}]
    tables = {name: pq.read_table(tmp_path / "out" / "data" / name) for name in sources}
    assert sum(table.num_rows for table in tables.values()) == report.steps
    index = mixture.episodes["source_key"].to_pylist().index("episode_000100")
    mine = mixture.steps(index)
    theirs = tables["tiers"].slice(tables["tiers"].num_rows - mine.num_rows)
    for name in ("observation.state", "action", "reward"):
        assert theirs[name].to_pylist() == mine[name].to_pylist()


def test_dtypes_splits_weights_and_pictures(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [3] * 12, wide=True, video=True)
    ranges = [(f"episode_{i:06d}", 0, None, 1.0 + i % 2) for i in range(12)]
    splits = {"train": 0.6, "val": 0.4}
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=ranges, splits=splits)
    exporter = HFParquetExporter(images="png")
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    assert report.frames == {"top": 36}
    assert [item["split"] for item in card(tmp_path / "out")["configs"][0]["data_files"]] == ["train", "val"]
    (path,) = (tmp_path / "out" / "data" / "made").glob("train-00000-of-00001.parquet")
    table = pq.read_table(path)
    kinds = {name: table.schema.field(name).type for name in ("counter", "half", "terminated", "keypoints", "weight")}
    assert kinds == {
        "counter": pa.uint8(),
        "half": pa.list_(pa.float16(), 2),
        "terminated": pa.bool_(),
        "keypoints": pa.list_(pa.list_(pa.float32())),
        "weight": pa.float64(),
    }
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["observation.images.top"] == {"_type": "Image"}
    traces = pq.read_table(tmp_path / "out" / "provenance.parquet").to_pylist()
    by_number = {row["episode_index"]: row["rate"] for row in traces}
    numbers, weights = table["episode_index"].to_pylist(), table["weight"].to_pylist()
    assert weights == [by_number[number] for number in numbers]
    assert sorted(set(by_number.values())) == sorted(set(rates(mixture)))


def test_missing_values_stay_missing(tmp_path: Path) -> None:
    mixture = with_holes(tmp_path)
    HFParquetExporter().export(mixture, str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / "data")
    assert table["reward"].to_pylist() == [0, 1, 2, 3, None, 5]
    assert table.schema.field("reward").type == pa.float32()


def test_files_are_cut_at_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_engine.exports.hf_parquet._GROUP_ROWS", 1)
    write_v3(tmp_path / "set", [40, 41, 42])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = HFParquetExporter.model_construct(columns="all", images="png", quality=95, shard_mb=0)
    exporter.export(mixture, str(tmp_path / "out"))
    names = sorted(path.name for path in (tmp_path / "out" / "data" / "made").iterdir())
    assert names == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    assert exporter.verify(mixture, str(tmp_path / "out")) == []


@pytest.mark.parametrize("damage", ["value", "null", "row", "card"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    write_v3(tmp_path / "set", [4, 3])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = HFParquetExporter()
    exporter.export(mixture, str(tmp_path / "out"))
    (path,) = (tmp_path / "out" / "data" / "made").iterdir()
    table = pq.read_table(path)
    if damage == "card":
        (tmp_path / "out" / "README.md").write_text("nothing")
    elif damage == "row":
        table = table.slice(0, 6)
    else:
        reward = np.array(table["reward"]).copy()
        reward[2] += 1
        holes = pa.array(reward, mask=np.arange(7) == 2) if damage == "null" else pa.array(reward)
        table = table.set_column(table.column_names.index("reward"), "reward", [holes])
    pq.write_table(table, path)
    assert exporter.verify(mixture, str(tmp_path / "out"))


def test_a_column_of_a_name_that_is_added_is_refused(tmp_path: Path, toy: Any) -> None:
    made = toy({"one": [3]})
    feature = made.datasets["one"].features[-1].model_copy(update={"name": "weight"})
    features = (*made.datasets["one"].features, feature)
    made.datasets["one"] = made.datasets["one"].model_copy(update={"features": features})
    with pytest.raises(RequestError, match="'weight' has the name of one that is added"):
        HFParquetExporter().export(made.mixture(tmp_path / "cache"), str(tmp_path / "out"))
