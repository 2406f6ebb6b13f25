"""What a verification must see in whatever dialect: a value, a row, two episodes, a frame, a weight, a declaration."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine import registry
from data_engine.exports import Exporter
from data_engine.mixture import Mixture
from tests.data_engine.exports.test_openpi_ranges import droid
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

RANGES = [(f"episode_{i:06d}", 0, None, weight) for i, weight in enumerate((1.0, 1.0, 2.5))]  # 5, 5 and 4 steps
COPIES = ["lerobot_v3", "robomimic", "webdataset", "mds", "minari", "hf_parquet", "rlds"]
LISTS = ["lerobot_episodes", "opentau", "openpi_ranges"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Exporter, Mixture, Path]]:
    """An export of each dialect, and its source, made once: exporter, mixture and the folder that holds them."""
    root = tmp_path_factory.mktemp("whole")
    write_v3(root / "set", [5, 5, 4], video=True)
    rlds = droid(root / "droid", ["a", "b", "c"], length=5)
    keys = [(f"train/00000/{i:06d}", 0, None, weight) for i, (*_, weight) in enumerate(RANGES)]
    kinds = {"weight_kind": "repeat", "unit": "episode"}
    steps = mixture_of(root / "lake", {"made": ("lerobot_v3", root / "set")}, ranges=RANGES, **kinds)
    ranges = mixture_of(root / "lake_rlds", {"made": ("rlds", rlds)}, ranges=keys, **kinds)
    made: dict[str, tuple[Exporter, Mixture, Path]] = {}

    def of(dialect: str) -> tuple[Exporter, Mixture, Path]:
        if dialect not in made:
            mixture, source = (ranges, "droid/1.0.1") if dialect == "openpi_ranges" else (steps, "set")
            options = {"sources": {"made": str(root / source)}} if dialect in LISTS else {}
            exporter = registry.make("exporters", dialect, options)
            exporter.export(mixture, str(root / dialect))
            assert exporter.verify(mixture, str(root / dialect)) == []
            made[dialect] = exporter, mixture, root / dialect
        return made[dialect]

    return of


def one(folder: Path, pattern: str) -> Path:
    return min(folder.rglob(pattern))


def flip(path: Path, at: float = 0.5) -> None:
    """Flip a bit of the byte at a share of the file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def flip_frame(path: Path) -> None:
    """Flip a bit of the pictures of a video, whose boxes stay as they are."""
    data = bytearray(path.read_bytes())
    data[data.index(b"mdat") + 40] ^= 1
    path.write_bytes(data)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    told = json.loads(path.read_text())
    path.write_text(json.dumps(change(told) or told))


def in_parquet(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def swap_steps(rows: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    """Give the first five steps the values of the next five, and these theirs."""
    for i in range(5):
        for name in names:
            rows[i][name], rows[5 + i][name] = rows[5 + i][name], rows[i][name]


def raise_first(values: Any) -> None:
    values[0] = [values[0][0] + 1e-3, *values[0][1:]] if isinstance(values[0], list) else values[0] + 1e-3


def put(name: str, value: Callable[[Any], Any]) -> Callable[[list[dict[str, Any]]], None]:
    """Change a column of the second row."""

    def change(rows: list[dict[str, Any]]) -> None:
        rows[1][name] = value(rows[1][name])

    return change


def more(value: Any) -> Any:
    return [value[0] + 1e-3, *value[1:]] if isinstance(value, list) else value + 1


def lerobot(out: Path, damage: str) -> None:
    data, trace = out / "data/chunk-000/file-000.parquet", out / "meta/provenance.parquet"
    episodes = one(out / "meta/episodes", "*.parquet")
    if damage == "value":
        in_parquet(data, put("action", more))
    elif damage == "row":
        in_parquet(data, lambda rows: rows.pop())
    elif damage == "swap":
        in_parquet(data, lambda rows: swap_steps(rows, ("action", "observation.state", "next.reward")))
    elif damage == "swapped frames":
        in_parquet(episodes, lambda rows: [exchange(rows, f"videos/observation.images.top/{side}_timestamp")
                                           for side in ("from", "to")])  # fmt: skip
    elif damage == "frame":
        flip_frame(one(out, "*.mp4"))
    elif damage == "weight":
        in_parquet(trace, put("rate", more))
    else:
        edit(out / "meta/stats.json", lambda told: told["action"]["mean"].__setitem__(0, 7.0))


def exchange(rows: list[dict[str, Any]], name: str) -> None:
    rows[0][name], rows[1][name] = rows[1][name], rows[0][name]


def cut_short(file: h5py.File, name: str) -> None:
    cut = file[name][:-1]
    del file[name]
    file[name] = cut


def swap(file: h5py.File, first: str, second: str) -> None:
    file.move(first, "between")
    file.move(second, first)
    file.move("between", second)


def robomimic(out: Path, damage: str) -> None:
    with h5py.File(out / "demos.hdf5", "r+") as file:
        first, second = (f"data/demo_{i}" for i in range(2))
        if damage == "value":
            file[f"{first}/actions"][1, 0] += 1e-3
        elif damage == "row":
            cut_short(file, f"{first}/actions")
        elif damage == "swap":
            swap(file, first, second)
        elif damage == "swapped frames":
            swap(file, f"{first}/obs/top", f"{second}/obs/top")
        elif damage == "frame":
            file[f"{first}/obs/top"][2, 5, 5, 0] ^= 1
        elif damage == "weight":
            file[first].attrs["weight"] = 7.0
        else:
            file[first].attrs["task"] = "another"


def minari(out: Path, damage: str) -> None:
    path = one(out, "main_data.hdf5")
    with h5py.File(path, "r+") as file:
        first, second = ("episode_0", "episode_1")
        if damage == "value":
            file[f"{first}/actions"][1, 0] += 1e-3
        elif damage == "row":
            cut_short(file, f"{first}/rewards")
        elif damage == "swap":
            swap(file, first, second)
        elif damage == "swapped frames":
            swap(file, f"{first}/observations/top", f"{second}/observations/top")
        elif damage == "frame":
            file[f"{first}/observations/top"][-1, 5, 5, 0] ^= 1
        elif damage == "weight":
            file[first].attrs["rate"] = 7.0
    if damage == "declaration":
        edit(path.with_name("metadata.json"), lambda told: {**told, "observation_space": told["action_space"]})


def webdataset(out: Path, damage: str) -> None:
    if damage == "weight":
        path = out / "metadataset.yaml"
        path.write_text(path.read_text().replace("2.5", "2.4"))
        return
    if damage == "declaration":
        flip_text(one(out, "split.yaml"), "train", "trane")
        return
    path = max(out.rglob("*.tar"), key=lambda path: path.stat().st_size)  # that of two episodes
    with tarfile.open(path) as tar:
        held = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    first, second = sorted({name.split(".")[0] for name in held})
    if damage in ("value", "row"):
        values = np.load(io.BytesIO(held[f"{first}.action.npy"]))
        buffer = io.BytesIO()
        np.save(buffer, values[:-1] if damage == "row" else values + np.float32(1e-3))
        held[f"{first}.action.npy"] = buffer.getvalue()
    elif damage == "swap":
        held = {name.replace(first, "x").replace(second, first).replace("x", second): held[name] for name in held}
    elif damage == "swapped frames":
        held[f"{first}.top.mp4"], held[f"{second}.top.mp4"] = held[f"{second}.top.mp4"], held[f"{first}.top.mp4"]
    elif damage == "frame":
        (path.parent / "film").write_bytes(held[f"{first}.top.mp4"])
        flip_frame(path.parent / "film")
        held[f"{first}.top.mp4"] = (path.parent / "film").read_bytes()
        (path.parent / "film").unlink()
    with tarfile.open(path, "w") as tar:
        for name in sorted(held):
            entry = tarfile.TarInfo(name)
            entry.size = len(held[name])
            tar.addfile(entry, io.BytesIO(held[name]))


def flip_text(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def hf_parquet(out: Path, damage: str) -> None:
    path = one(out / "data", "*.parquet")
    if damage == "value":
        in_parquet(path, put("action", more))
    elif damage == "row":
        in_parquet(path, lambda rows: rows.pop())
    elif damage == "swap":
        names = ("action", "observation.state", "reward", "observation.images.top")
        in_parquet(path, lambda rows: swap_steps(rows, names))
    elif damage == "swapped frames":
        in_parquet(path, lambda rows: swap_steps(rows, ("observation.images.top",)))
    elif damage == "frame":
        shown = "observation.images.top"
        in_parquet(path, put(shown, lambda cell: {**cell, "bytes": cell["bytes"][:-9] + b"\0" + cell["bytes"][-8:]}))
    elif damage == "weight":
        in_parquet(path, put("weight", more))
    else:
        flip_text(out / "README.md", "data/made/train-*.parquet", "data/made/val-*.parquet")


def mds(out: Path, damage: str) -> None:
    path = max(out.rglob("*.mds"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    count = struct.unpack_from("<I", data)[0]
    edges = struct.unpack_from(f"<{count + 1}I", data, 4)
    samples = [bytes(data[a:b]) for a, b in itertools.pairwise(edges)]
    if damage == "value":
        data[-1] ^= 1
    elif damage == "frame":
        data[data.index(b"\xff\xd8\xff", edges[3]) + 300] ^= 1
    elif damage == "row":
        data = data[: edges[-2]]
    elif damage == "swap":  # samples of two episodes, each of its own length: places and all
        samples[:10] = samples[5:10] + samples[:5]
        ends = np.cumsum([edges[0], *map(len, samples)]).astype("<u4").tobytes()
        data = bytearray(data[:4] + ends + data[4 + len(ends) : edges[0]] + b"".join(samples))
    elif damage == "weight":
        flip_text(out / "streams.json", "2.5", "2.4")
    elif damage == "declaration":
        edit(path.with_name("index.json"), lambda told: told["shards"][0].update(samples=3))
    path.write_bytes(data)


def rlds(out: Path, damage: str) -> None:
    path = max(out.rglob("*.tfrecord*"), key=lambda path: path.stat().st_size)
    data, records, at = path.read_bytes(), [], 0
    while at < len(data):
        size = struct.unpack_from("<Q", data, at)[0] + 16
        records.append(data[at : at + size])
        at += size
    if damage == "value":
        flip(path)
    elif damage == "frame":
        at = data.index(b"\xff\xd8\xff") + 300
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    elif damage == "row":
        path.write_bytes(b"".join(records[:-1]))
    elif damage == "swap":
        path.write_bytes(b"".join([records[1], records[0], *records[2:]]))
    elif damage == "weight":
        flip_text(out / "oxe_mixtures.json", "2.5", "2.4")
    else:
        flip_text(one(out, "features.json"), '"64"', '"63"')


WAYS = {
    "lerobot_v3": lerobot, "robomimic": robomimic, "webdataset": webdataset, "mds": mds, "minari": minari,
    "hf_parquet": hf_parquet, "rlds": rlds,
}  # fmt: skip
DAMAGES = ["value", "row", "swap", "swapped frames", "frame", "weight", "declaration"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("dialect", COPIES)
def test_a_copy_that_differs_is_told_in_a_line(whole, tmp_path: Path, dialect: str, damage: str) -> None:
    if damage == "swapped frames" and dialect in ("mds", "rlds"):
        pytest.skip("a record holds its frames: they are swapped with it")
    exporter, mixture, out = whole(dialect)
    shutil.copytree(out, tmp_path / "out")
    WAYS[dialect](tmp_path / "out", damage)
    told = exporter.verify(mixture, str(tmp_path / "out"))
    assert told and all(line.strip() and "\n" not in line for line in told), told


@pytest.mark.parametrize("dialect", [name for name in COPIES if name != "lerobot_v3"] + LISTS)
@pytest.mark.parametrize("key", ["entries", "weight_kind", "unit", "mixture_id", "steps", "trace", "no JSON"])
def test_what_every_folder_says_of_the_mixture_is_held_against_it(whole, tmp_path, dialect: str, key: str) -> None:
    exporter, mixture, out = whole(dialect)
    shutil.copytree(out, tmp_path / "out")
    manifest = tmp_path / "out" / "mixture.json"
    if key == "trace":
        in_parquet(tmp_path / "out" / "provenance.parquet", put("rate", more))
    elif key == "no JSON":
        manifest.write_text("[]")
    else:
        edit(manifest, lambda told: {**told, key: None})
    told = exporter.verify(mixture, str(tmp_path / "out"))
    assert told and all("\n" not in line for line in told), told


@pytest.mark.parametrize("damage", ["list", "weight", "lost", "source value", "source frame"])
@pytest.mark.parametrize("dialect", LISTS)
def test_a_list_that_differs_or_whose_source_does_is_told(whole, tmp_path, dialect: str, damage: str) -> None:
    if dialect == "openpi_ranges" and damage == "source frame":
        pytest.skip("pictures of RLDS are no video, and are not compared")
    exporter, mixture, out = whole(dialect)
    shutil.copytree(out, tmp_path / "out")
    made = tmp_path / "out"
    source = Path(exporter.sources["made"])  # type: ignore[attr-defined]
    copy = source
    if damage.startswith("source"):
        copy = tmp_path / "set" / source.name
        shutil.copytree(source, copy)
        exporter = type(exporter)(sources={"made": str(copy)})
        shutil.rmtree(made)
        exporter.export(mixture, str(made))
        assert exporter.verify(mixture, str(made)) == []
        if damage == "source frame":
            flip_frame(one(copy, "*.mp4"))
        elif dialect == "openpi_ranges":
            flip(one(copy, "*.tfrecord*"))
        else:
            in_parquet(one(copy / "data", "*.parquet"), put("action", more))
    elif damage == "weight":
        if dialect == "lerobot_episodes":
            in_parquet(one(made / "weights", "*.parquet"), put("weight", more))
        else:
            path = made / ("datasets.json" if dialect == "openpi_ranges" else "train.json")
            flip_weight(path)
    else:
        path = {"lerobot_episodes": made / "episodes.json", "opentau": made / "train.json"}.get(dialect)
        path = path or one(made / "train", "*.json")
        path.unlink() if damage == "lost" else edit(path, shorten)
    told = exporter.verify(mixture, str(made))
    assert told and all("\n" not in line for line in told), told


def flip_weight(path: Path) -> None:
    """Change the first weight of a list of datasets."""
    told = json.loads(path.read_text())
    if "train" in told:
        told["train"][0]["weight"] += 0.01
    else:
        told["dataset_mixture"]["weights"][0] += 0.01
    path.write_text(json.dumps(told))


def shorten(told: Any) -> Any:
    """Lose the last entry of the deepest first list."""
    inside = told
    while isinstance(inside, dict):
        lists = [value for value in inside.values() if isinstance(value, list | dict)]
        inside = lists[0]
    inside.pop()
    return told
