"""Sources on a Hugging Face hub, and in the cache that its client keeps."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.formats import Source, SourceEpisode, detect
from data_engine.recipe import SourceRecipe
from flows.executor import Local
from flows.ingest import ingest
from flows.progress import silent
from storage.check import check, fingerprint
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import write_v2, write_v3
from tests.hub import hub


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that ``hf://datasets/org/reach`` is, at the revisions main and v1.0."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with hub(folder, "org/reach", frozenset({"main", "v1.0"})) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield folder


def bring(lake: Path, uri: str | Path) -> Lake:
    target = Lake.open(str(lake), create=True)
    recipe = SourceRecipe(name="reach", uri=str(uri))
    receipt = ingest(target, recipe, on=Local(), progress=silent(), run_id="run_test")
    assert not receipt["quarantined"]
    return target


@pytest.mark.parametrize("uri", ["hf://datasets/org/reach", "hf://datasets/org/reach@v1.0/sets/one"])
@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_a_set_reads_the_same_from_the_hub(served: Path, tmp_path: Path, uri: str, write) -> None:
    root = served / ("sets/one" if uri.endswith("one") else "")
    root.mkdir(parents=True, exist_ok=True)
    write(root, [3, 4], video=True)
    there, here = bring(tmp_path / "there", uri), bring(tmp_path / "here", root)
    assert there.episodes()["content_hash"].to_list() == here.episodes()["content_hash"].to_list()
    assert there.datasets()["reach"].origin == uri
    assert check(there) == []
    assert fingerprint(there) == fingerprint(bring(tmp_path / "again", uri))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://datasets/org/nothing", "no such source"),
        ("hf://datasets/org/reach@v9", "no such source"),
        ("hf://datasets/org/reach/nowhere", "no such source"),
        ("hf://datasets/reach", "cannot reach|no such source"),
    ],
)
def test_what_is_not_there_is_one_clear_line(served: Path, uri: str, message: str) -> None:
    write_v2(served, [2])
    with pytest.raises(RequestError, match=message) as raised:
        detect(Source(uri))
    assert "\n" not in str(raised.value)


def test_a_hub_out_of_reach_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as deaf:  # bound, so that nobody else gets it, and never listening
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(RequestError, match="cannot reach hf://datasets/org/reach") as raised:
            detect(Source("hf://datasets/org/reach"))
    assert raised.value.code == "unreachable"
    assert "\n" not in str(raised.value)


def cached(folder: Path, content: Path) -> Path:
    """The client's cache of one set: the files lie under ``blobs``, the snapshot is links to them."""
    repo = folder / "hub" / "datasets--org--reach"
    snapshot = repo / "snapshots" / "1234abcd"
    (repo / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in content.rglob("*") if p.is_file())):
        blob = repo / "blobs" / f"{number:040x}"
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(content)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(link.relative_to(repo).parts) - 1)) / "blobs" / blob.name)
    return snapshot


def test_a_snapshot_of_the_cache_is_read_through_its_links(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [3, 4], video=True)
    snapshot = cached(tmp_path, tmp_path / "set")
    assert (snapshot / "meta" / "info.json").is_symlink()
    here, there = bring(tmp_path / "here", tmp_path / "set"), bring(tmp_path / "there", snapshot)
    assert there.episodes()["content_hash"].to_list() == here.episodes()["content_hash"].to_list()


def test_a_snapshots_links_lead_to_its_own_blobs_and_nowhere_else(tmp_path: Path) -> None:
    write_v2(tmp_path / "set", [2])
    snapshot = cached(tmp_path, tmp_path / "set")
    repo = snapshot.parents[1]
    (tmp_path / "secret").write_text("secret")
    (repo / "secret").write_text("secret")
    (repo / "blobs" / "deep").mkdir()
    (repo / "blobs" / "deep" / "secret").write_text("secret")
    (repo / "blobs" / "out").symlink_to(tmp_path / "secret")
    other = tmp_path / "hub" / "datasets--org--other" / "blobs" / "0"
    other.parent.mkdir(parents=True)
    other.write_text("secret")
    (snapshot / "folder").symlink_to(repo / "blobs")
    targets = {
        "far": tmp_path / "secret", "near": repo / "secret", "deep": repo / "blobs" / "deep" / "secret",
        "chain": repo / "blobs" / "out", "other": other,
    }  # fmt: skip
    for name, target in targets.items():
        (snapshot / name).symlink_to(target)
    source = Source(str(snapshot))
    assert source.path("meta", "info.json")
    for name in (*targets, "folder/" + "0" * 40, "folder"):
        with pytest.raises(RequestError, match="leaves"):
            source.path(name)
    plain = tmp_path / "plain" / "snapshots" / "1"  # no cache of the client: links lead nowhere
    plain.mkdir(parents=True)
    (tmp_path / "plain" / "blobs").mkdir()
    (tmp_path / "plain" / "blobs" / "0").write_text("secret")
    (plain / "link").symlink_to(tmp_path / "plain" / "blobs" / "0")
    with pytest.raises(RequestError, match="leaves"):
        Source(str(plain)).path("link")


def test_frames_come_over_the_wire(served: Path) -> None:
    write_v2(served, [3], images=True)
    form, probe = detect(Source("hf://datasets/org/reach"))
    (episode,) = form.read(Source("hf://datasets/org/reach"), probe, ["episode_000000"])
    assert isinstance(episode, SourceEpisode)
    (camera,) = episode.cameras.values()
    assert np.stack(list(camera.frames())).shape == (3, 64, 80, 3)  # type: ignore[union-attr]
