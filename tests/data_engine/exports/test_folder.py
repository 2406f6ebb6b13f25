"""What every dialect that copies steps into a folder must do, whichever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.exports.folder import MANIFEST, TRACES, FolderExporter
from data_engine.exports.rates import rates
from data_engine.exports.rows import export_order
from data_engine.mixture import Mixture
from tests.data_engine.exports.holes import with_holes
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

DIALECTS = ["robomimic", "rlds", "hf_parquet", "webdataset", "mds", "minari"]
RANGES = [("episode_000000", 0, 4, 1.0), ("episode_000001", 2, 8, 2.5), ("episode_000002", 1, 4, 1.0)]

dialects = pytest.mark.parametrize("dialect", DIALECTS)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def made(dialect: str, **options: Any) -> FolderExporter:
    return registry.make("exporters", dialect, options)


@pytest.fixture
def wide(tmp_path: Path) -> Mixture:
    """Ranges of three episodes with float16, uint8 and matrix columns and a video, of two weights."""
    write_v3(tmp_path / "set", [5, 9, 6], wide=True, video=True, extra={"success": [True, None, False]})
    return mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=RANGES)


@dialects
def test_reads_back_whole_and_says_what_became_of_the_weights(wide: Mixture, tmp_path: Path, dialect: str) -> None:
    exporter = made(dialect)
    report = exporter.export(wide, str(tmp_path / "out"))
    assert (report.format, report.episodes, report.steps) == (dialect, 3, 13)
    assert report.bytes == sum(map(len, tree(tmp_path / "out").values()))
    assert report.weights.startswith("the mixture drew independently by probability (unit")
    told = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert told["weights"] == report.weights
    assert told["notes"] == list(report.notes)
    traces = pq.read_table(tmp_path / "out" / TRACES).to_pylist()
    assert [(row["source_key"], row["start"], row["stop"], row["weight"]) for row in traces] == RANGES
    assert [row["rate"] for row in traces] == rates(wide)[export_order(wide)].tolist()
    assert exporter.verify(wide, str(tmp_path / "out")) == []


@dialects
def test_equal_mixtures_make_equal_bytes(wide: Mixture, tmp_path: Path, dialect: str) -> None:
    for name in ("one", "two"):
        made(dialect).export(wide, str(tmp_path / name))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    made(dialect).export(wide, str(tmp_path / "one"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")} == before


@dialects
def test_works_on_an_object_store(s3: str, tmp_path: Path, dialect: str) -> None:
    write_v3(tmp_path / "set", [3, 4])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    report = made(dialect).export(mixture, f"{s3}/out")
    assert made(dialect).export(mixture, f"{s3}/out") == report
    assert made(dialect).verify(mixture, f"{s3}/out") == []


@dialects
def test_another_mixture_is_told_apart_and_not_overwritten(tmp_path: Path, dialect: str) -> None:
    write_v3(tmp_path / "set", [3, 4])
    sources = {"made": ("lerobot_v3", tmp_path / "set")}
    one, two = mixture_of(tmp_path / "a", sources), mixture_of(tmp_path / "b", sources, keys=["episode_000001"])
    made(dialect).export(one, str(tmp_path / "out"))
    found = made(dialect).verify(two, str(tmp_path / "out"))
    assert any("mixture_id" in line for line in found)
    assert any(TRACES in line for line in found)
    with pytest.raises(RequestError) as caught:
        made(dialect).export(two, str(tmp_path / "out"))
    assert caught.value.code == "occupied"


@dialects
def test_values_of_another_recording_are_found(tmp_path: Path, dialect: str) -> None:
    """The dialect's own files, not only what lies beside them."""
    write_v3(tmp_path / "set", [3, 4])
    sources = {"made": ("lerobot_v3", tmp_path / "set")}
    mixture = mixture_of(tmp_path / "a", sources)
    other = mixture_of(tmp_path / "b", sources, ranges=[("episode_000000", 0, 2, 1.0), ("episode_000001", 1, 4, 3.0)])
    made(dialect).export(other, str(tmp_path / "out"))
    order = export_order(mixture)
    try:
        assert list(made(dialect).differences(mixture, order, tmp_path / "out"))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        assert made(dialect).verify(mixture, str(tmp_path / "out"))


@dialects
def test_a_missing_value_is_refused_or_stays_missing(tmp_path: Path, dialect: str) -> None:
    mixture = with_holes(tmp_path)
    try:
        made(dialect).export(mixture, str(tmp_path / "out"))
    except RequestError as error:
        assert error.code == "missing_values"
        assert "'reward' lacks values in episode '1' of 'made'" in str(error)
        assert not (tmp_path / "out").exists()
        report = made(dialect, columns=["observation.state", "action"]).export(mixture, str(tmp_path / "out"))
        assert any("reward" in note for note in report.notes)
    else:
        assert dialect == "hf_parquet"
        assert made(dialect).verify(mixture, str(tmp_path / "out")) == []


@dialects
def test_several_embodiments_are_refused_or_kept_apart(tmp_path: Path, toy: Any, dialect: str) -> None:
    mixture = toy({"one": [4, 5], "two": [6]}, {"one": 2, "two": 3}).mixture(tmp_path / "cache")
    try:
        made(dialect).export(mixture, str(tmp_path / "out"))
    except RequestError as error:
        assert error.code == "unlike_datasets"
        assert not (tmp_path / "out").exists()
    else:
        assert made(dialect).verify(mixture, str(tmp_path / "out")) == []
