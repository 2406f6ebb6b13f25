from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.exports.openpi_ranges import OpenpiRangesExporter
from tests.data_engine.formats.rlds_sets import Tensor, Text, steps, write_set
from tests.mixtures import mixture_of

FEATURES = steps(
    {"observation": {"state": Tensor("float32", (2,))}, "action": Tensor("float32", (2,)), "is_first": Tensor("bool")},
    episode_metadata={"recording_folderpath": Text(), "file_path": Text()},
)


def droid(folder: Path, names: list[str], length: int = 8) -> Path:
    """A set with the metadata that openpi's loader finds episodes by."""

    def episode(number: int, name: str) -> dict:
        vector = np.full(2, number, np.float32)
        step = {"observation": {"state": vector}, "action": vector, "is_first": False}
        metadata = {"recording_folderpath": f"/data/{name}", "file_path": f"{name}.h5"}
        return {"steps": [step] * length, "episode_metadata": metadata}

    write_set(
        folder / "1.0.1", FEATURES, {"train": [[episode(i, name) for i, name in enumerate(names)]]}, version="1.0.1"
    )
    return folder / "1.0.1"


def test_keys_ranges_and_weights_as_openpi_reads_them(tmp_path: Path) -> None:
    root = droid(tmp_path / "droid", ["a", "b", "c"])
    keys = [f"train/00000/{i:06d}" for i in range(3)]
    ranges = [(keys[0], 0, 4, 1.0), (keys[0], 6, 8, 1.0), (keys[2], 2, 8, 3.0)]
    mixture = mixture_of(
        tmp_path / "lake", {"droid": ("rlds", root)}, ranges=ranges, weight_kind="repeat", unit="episode"
    )
    exporter = OpenpiRangesExporter(sources={"droid": str(root)})
    exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    told = json.loads((tmp_path / "out" / "datasets.json").read_text())
    assert [(d["version"], d["weight"], d["filter_dict_path"]) for d in told["train"]] == [
        ("1.0.1", 0.75, "train/droid.json"),
        ("1.0.1", 0.25, "train/droid__w1.json"),
    ]
    kept = [json.loads((tmp_path / "out" / d["filter_dict_path"]).read_text()) for d in told["train"]]
    assert kept == [{"/data/c--c.h5": [[2, 8]]}, {"/data/a--a.h5": [[0, 4], [6, 8]]}]


def test_episodes_that_openpi_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    root = droid(tmp_path / "droid", ["a", "a"])
    mixture = mixture_of(tmp_path / "lake", {"droid": ("rlds", root)})
    with pytest.raises(RequestError) as caught:
        OpenpiRangesExporter(sources={"droid": str(root)}).export(mixture, str(tmp_path / "out"))
    assert caught.value.code == "same_key"


def test_the_real_set_needs_another_key(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "bridge_rlds" / "1.0.0"
    keys = [f"train/00000/{i:06d}" for i in range(2)]
    mixture = mixture_of(tmp_path / "lake", {"bridge": ("rlds", root)}, keys=keys)
    sources = {"bridge": str(root)}
    with pytest.raises(RequestError, match="has no 'recording_folderpath', by which openpi finds it"):
        OpenpiRangesExporter(sources=sources).export(mixture, str(tmp_path / "out"))
    exporter = OpenpiRangesExporter(sources=sources, key=("file_path", "episode_id"))
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert report.notes == ("episodes are keyed by file_path--episode_id, not by openpi's own fields",)
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    (kept,) = (tmp_path / "out" / "train").glob("*.json")
    assert sum(stop - start for spans in json.loads(kept.read_text()).values() for start, stop in spans) == report.steps
