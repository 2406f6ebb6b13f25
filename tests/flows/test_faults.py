"""From an S3 source into an S3 lake over a network that fails: the same lake, or one line and nothing by halves."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import EngineError
from data_engine.fs import filesystem
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from data_engine.windows import Windows
from flows.executor import Local
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.query import matching
from flows.select import select
from storage.check import check, fingerprint
from storage.lake import Lake
from tests.api.commands import refusal
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.faulty_s3 import Fault, FaultyS3

ALL = [  # one request of ten is spoilt, in all the ways there are; the last makes the client wait for a second
    Fault("internal", every=61, times=None),
    Fault("slow_down", every=67, times=None),
    Fault("lost", method="PUT|POST", every=7, times=None),
    Fault("reset", every=37, times=None),
    Fault("truncated", method="GET", every=11, times=None),
    Fault("stalled", method="GET", every=101, times=2),
]


@pytest.fixture
def sources(s3: str, recording: Path, tmp_path: Path) -> list[tuple[str, str]]:
    """(dataset, URI) of a robomimic file and a LeRobot folder with video on the store."""
    write_v3(tmp_path / "set", [12, 9, 14], video=True)
    fs, root = filesystem(s3)
    fs.put_file(str(recording), f"{root}/in/reach.hdf5")
    for path in sorted((tmp_path / "set").rglob("*")):
        if path.is_file():
            fs.put_file(str(path), f"{root}/in/set/{path.relative_to(tmp_path / 'set')}")
    return [("reach", f"{s3}/in/reach.hdf5"), ("set", f"{s3}/in/set")]


def bring(lake: Lake, sources: list[tuple[str, str]]) -> None:
    for dataset, uri in sources:
        receipt = ingest(
            lake, SourceRecipe(name=dataset, uri=uri), on=Local(), progress=silent(), run_id=f"run_{dataset}"
        )
        assert receipt["quarantined"] == []


def story(lake: Lake, sources: list[tuple[str, str]], cache: Path) -> tuple[str, str, str]:
    """Ingest, query, freeze, load and check: the fingerprint, the mixture's id and a hash of samples."""
    bring(lake, sources)
    found, _ = matching(lake, lake.episodes(), "n_steps > 10")
    select(lake, SelectRecipe(name="long", method="filter"), found, progress=silent(), run_id="run_select")
    made = mix(lake, MixtureRecipe(entries=[{"selection": "long"}]), run_id="run_mix")
    mixture = mixtures.open(made["uri"], cache_dir=cache)
    sha = hashlib.sha256()
    for _, sample in zip(range(50), mixture.samples(Windows(action_horizon=4)), strict=False):
        for name in sorted(sample):
            sha.update(np.ascontiguousarray(sample[name]).tobytes() if isinstance(sample[name], np.ndarray) else b"")
    assert check(lake) == []
    return fingerprint(lake), made["mixture_id"], sha.hexdigest()


def test_over_a_failing_network_the_whole_story_is_the_same(s3, faulty: FaultyS3, sources, tmp_path, monkeypatch):
    clean = story(Lake.open(f"{s3}/clean", create=True), sources, tmp_path / "cache1")
    shutil.rmtree(tmp_path / "cache")
    faulty.plan(*ALL)
    spoilt = story(Lake.open(f"{s3}/spoilt", create=True), sources, tmp_path / "cache2")
    assert spoilt == clean
    assert all(fault.hits for fault in ALL), [(fault.kind, fault.hits) for fault in ALL]


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("truncated", "GET", r"/in/reach\.hdf5"),
        ("reset", "GET", r"/in/set/videos/.*mp4"),
        ("internal", "PUT|POST", r"/lake/(_pending|_ledger|videos)/.*"),
        ("reset", "PUT", r"/lake/tables/episodes/_delta_log/.*1\.json"),
    ],
)
def test_what_fails_for_good_is_one_line_and_nothing_is_published(
    s3, faulty, sources, monkeypatch, capsys, kind, method, path
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    lake = Lake.open(f"{s3}/lake", create=True)
    dataset, uri = sources["/reach" not in path]
    faulty.plan(Fault(kind, method, path, times=None))
    line = refusal(capsys, "ingest", uri, "--dataset", dataset, "--lake", lake.uri, code=1)
    assert faulty.spoilt
    assert "run it again" in line
    assert len(lake.episodes()) == 0
    assert len(lake.scan("quarantine").collect()) == 0
    faulty.plan()
    bring(lake, [(dataset, uri)])
    assert len(lake.episodes()) == (24 if dataset == "reach" else 3)
    assert check(lake) == []


def test_a_sample_that_could_not_be_read_is_no_evidence(s3, faulty, sources, monkeypatch):
    """Conventions are inferred from the first episodes: without them the dataset would be described otherwise."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    lake = Lake.open(f"{s3}/lake", create=True)
    faulty.plan(Fault("truncated", "GET", r"/in/set/data/.*parquet", times=2))
    with pytest.raises(EngineError) as caught:
        bring(lake, sources[1:])
    assert caught.value.code == "unreachable"
    assert lake.datasets() == {}


def test_a_lake_that_does_not_answer_is_one_line(s3, faulty, capsys, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    Lake.open(f"{s3}/lake", create=True)
    faulty.plan(Fault("internal", times=None))
    assert "did not answer" in refusal(capsys, "query", "--lake", f"{s3}/lake", code=1)


def test_a_table_that_does_not_answer_is_one_line(s3, faulty, sources, capsys, monkeypatch):
    lake = Lake.open(f"{s3}/lake", create=True)
    bring(lake, sources[1:])
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    for path in (r"/lake/tables/episodes/_delta_log/", r"/lake/tables/episodes/[^_].*\.parquet"):
        faulty.plan(Fault("internal", path=path, times=None))
        assert "did not answer" in refusal(capsys, "query", "--lake", lake.uri, code=1)
        assert faulty.spoilt
    faulty.plan()
    assert len(lake.episodes().filter(pl.col("dataset") == "set")) == 3
