"""Videos that stay where they are: ingested by reference, read, checked, never taken for what they no longer are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError, SourceError
from data_engine.fs import filesystem
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from data_engine.references import find, pointer
from data_engine.samples import Samples
from data_engine.windows import Windows
from flows.executor import Local
from flows.export import export
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.remove import erase, remove
from flows.select import select
from storage.check import check, fingerprint
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import write_v2, write_v3
from tests.data_engine.video.conftest import make_video as make_video

VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def filmed(tmp_path_factory) -> Path:
    """A LeRobot set of two episodes that share one video; tests only read it."""
    root = tmp_path_factory.mktemp("filmed") / "set"
    write_v3(root, [12, 9], video=True)
    return root


@pytest.fixture
def source(filmed, tmp_path) -> Path:
    """A copy of the set, to change."""
    shutil.copytree(filmed, tmp_path / "set")
    return tmp_path / "set"


def bring(lake, uri, by_reference=True, name="set", **options):
    recipe = SourceRecipe(name=name, uri=str(uri), by_reference=by_reference, options=options)
    return ingest(lake, recipe, on=Local(), progress=silent(), run_id="run_test")


def upload(folder: Path, uri: str) -> str:
    fs, root = filesystem(uri)
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes())
    return uri


def frozen(lake: Lake) -> str:
    """The URI of a mixture of everything."""
    recipe = SelectRecipe(name="all", method="filter")
    select(lake, recipe, lake.episodes(), progress=silent(), run_id="run_test")
    return mix(lake, MixtureRecipe(entries=[{"selection": "all"}]), run_id="run_test")["uri"]


def seen(mixture: mixtures.Mixture) -> np.ndarray:
    """Every frame that a trainer gets, in the mixture's order."""
    samples = Samples(mixture, Windows())
    return samples.read(0, np.arange(samples.size()))["observation.images.top"]


def shown(lake: Lake) -> np.ndarray:
    """Every frame that a scorer gets."""
    return np.concatenate(
        [
            batch.frames(i, "top", batch.steps["timestamp"].to_numpy()[rows])
            for batch in lake.batches(lake.episodes())
            for i, rows in enumerate(batch)
        ]
    )


def whats(lake: Lake, **how) -> dict[str, str]:
    return {problem["path"]: problem["what"] for problem in check(lake, **how)}


@pytest.fixture(scope="module")
def copied(filmed, tmp_path_factory) -> tuple[Lake, mixtures.Mixture, bytes]:
    """The set copied into a lake, a mixture of it and the video of an export; tests only read them."""
    folder = tmp_path_factory.mktemp("copied")
    lake = Lake.open(str(folder / "lake"), create=True)
    bring(lake, filmed, by_reference=False)
    mixture = mixtures.open(frozen(lake))
    export(mixture.uri, "lerobot_v3", str(folder / "out"), verify=True)
    return lake, mixture, next((folder / "out").rglob("*.mp4")).read_bytes()


@pytest.mark.parametrize(("lake_at", "source_at"), [("local", "local"), ("local", "s3"), ("s3", "local")])
def test_the_bytes_stay_and_everything_reads_as_if_they_were_copied(lake_at, source_at, s3, filmed, copied, tmp_path):
    uri = str(filmed) if source_at == "local" else upload(filmed, f"{s3}/sources/set")
    lake = Lake.open(str(tmp_path / "lake") if lake_at == "local" else f"{s3}/lake", create=True)
    receipt = bring(lake, uri)
    data = (filmed / VIDEO).read_bytes()
    (stream,) = receipt["streams"].values()
    assert (stream["kept"], stream["uri"]) == ("by reference", f"{uri}/{VIDEO}")
    assert (stream["bytes"], stream["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert stream["mtime" if source_at == "local" else "etag"]
    assert {file["sha256"] for file in receipt["source"]["files"]} >= {stream["sha256"]}
    assert f"1 videos ({len(data):,} bytes) stay where they are" in receipt["notes"]
    assert lake.list("videos") == []
    assert all(data[1000:1200] not in lake.read_bytes(path) for path in lake.list())

    other, its_mixture, exported = copied
    drop = ["steps_file", "ingested_at", "run_id"]
    assert lake.episodes().drop(drop).equals(other.episodes().drop(drop))
    np.testing.assert_array_equal(shown(lake), shown(other))
    assert check(lake) == check(lake, deep=False) == []

    mixture = mixtures.open(frozen(lake))
    assert (mixture.id, mixture.files[-1]) == (its_mixture.id, its_mixture.files[-1])
    np.testing.assert_array_equal(seen(mixture), seen(its_mixture))
    if lake_at != source_at:
        assert export(mixture.uri, "lerobot_v3", str(tmp_path / "out"), verify=True)["verified"]
        assert next((tmp_path / "out").rglob("*.mp4")).read_bytes() == exported

    assert not [path for path in lake.vacuum(grace_hours=-1)["removed"] if not path.startswith("_pending/")]
    fs, root = filesystem(uri)
    assert fs.cat_file(f"{root}/{VIDEO}") == data


def test_running_it_again_changes_nothing(lake, source):
    bring(lake, source)
    before = fingerprint(lake)
    assert bring(lake, source)["repeated"]
    assert fingerprint(lake) == before
    os.utime(source / VIDEO)
    assert bring(lake, source)["stored"]["episodes"] == 0
    assert len(lake.list("references")) == 1
    assert check(lake, deep=False) == []


def test_a_changed_file_is_an_error_and_never_shows_wrong_frames(lake, source):
    bring(lake, source)
    video, uri = source / VIDEO, frozen(lake)
    sound, stamp = video.read_bytes(), video.stat().st_mtime_ns
    half = len(sound) // 2
    flipped = sound[:half] + bytes([sound[half] ^ 1]) + sound[half + 1 :]

    def refused(message: str) -> None:
        for read in (lambda: shown(lake), lambda: seen(mixtures.open(uri))):
            with pytest.raises(SourceError, match=message) as error:
                read()
            assert str(video) in str(error.value)

    video.write_bytes(sound + b"more")
    refused("has changed since it was ingested by reference")
    assert whats(lake, deep=False) == whats(lake)
    assert f"{len(sound) + 4} bytes, {len(sound)} were ingested" in whats(lake)[str(video)]

    video.write_bytes(flipped)
    refused("its bytes are others")
    assert "touched or changed: time" in whats(lake, deep=False)[str(video)]
    assert "not the ones that were ingested" in whats(lake)[str(video)]

    os.utime(video, ns=(stamp, stamp))  # as if nothing had happened: only reading every byte tells
    assert check(lake, deep=False) == []
    assert set(whats(lake)) == {str(video)}
    with pytest.raises(SourceError, match="its bytes are others"):
        seen(mixtures.open(uri))

    video.unlink()
    refused("is gone")
    assert whats(lake) == whats(lake, deep=False) == {str(video): "ingested by reference: missing"}

    video.write_bytes(sound)  # put back, at another time
    assert len(shown(lake)) == len(seen(mixtures.open(uri))) == 21
    assert check(lake) == []
    assert "touched" in whats(lake, deep=False)[str(video)]
    bring(lake, source)
    assert check(lake, deep=False) == []


def test_a_changed_object_is_an_error(s3, filmed, tmp_path):
    uri = upload(filmed, f"{s3}/sources/set")
    fs, root = filesystem(uri)
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    bring(lake, uri)
    mixture = frozen(lake)
    sound = (filmed / VIDEO).read_bytes()
    fs.pipe_file(f"{root}/{VIDEO}", sound[:-9] + b"?" + sound[-8:])
    for read in (lambda: shown(lake), lambda: seen(mixtures.open(mixture))):
        with pytest.raises(SourceError, match="has changed since it was ingested by reference"):
            read()
    assert "touched or changed: ETag" in whats(lake, deep=False)[f"{uri}/{VIDEO}"]
    assert "not the ones that were ingested" in whats(lake)[f"{uri}/{VIDEO}"]
    fs.pipe_file(f"{root}/{VIDEO}", sound)
    assert len(shown(lake)) == 21
    fs.pipe_file(f"{root}/{VIDEO}", sound + b"more")
    assert len(seen(mixtures.open(mixture))) == 21  # of the copy that is kept: the right bytes
    assert set(whats(lake, deep=False)) == {f"{uri}/{VIDEO}"}
    fs.rm_file(f"{root}/{VIDEO}")
    assert whats(lake, deep=False)[f"{uri}/{VIDEO}"].endswith("missing")


def test_what_changed_and_was_ingested_again_is_sound_and_an_older_mixture_says_so(lake, source):
    bring(lake, source)
    before, video = frozen(lake), source / VIDEO
    other = source.parent / "other"
    write_v3(other, [9, 12], video=True)
    shutil.copyfile(other / VIDEO, video)
    shutil.copytree(other / "data", source / "data", dirs_exist_ok=True)
    shutil.copytree(other / "meta", source / "meta", dirs_exist_ok=True)
    with video.open("ab") as file:
        file.write(b"\0\0\0\x08free")  # an empty box: the same frames, other bytes
    assert bring(lake, source)["stored"]["episodes"] == 2
    assert len(shown(lake)) == 21
    assert set(whats(lake)) == {str(video)}  # the mixture holds the file as it was
    with pytest.raises(SourceError, match="has changed since"):
        seen(mixtures.open(before))
    shutil.rmtree(Path(lake.root) / "mixtures")
    assert check(lake) == []


def test_a_copy_takes_the_place_of_a_reference_and_stays(lake, source):
    bring(lake, source)
    uri, rows, frames = frozen(lake), lake.episodes(), shown(lake)
    samples = seen(mixtures.open(uri))
    receipt = bring(lake, source, by_reference=False)
    assert (receipt["stored"]["episodes"], receipt["unchanged"]) == (0, 2)
    assert lake.episodes().equals(rows)
    assert len(lake.list("videos")) == 1
    shutil.rmtree(source / "videos")
    np.testing.assert_array_equal(shown(lake), frames)
    np.testing.assert_array_equal(seen(mixtures.open(uri)), samples)
    assert check(lake) == []


def test_a_copy_that_is_there_is_not_given_up_for_a_reference(lake, source):
    bring(lake, source, by_reference=False)
    receipt = bring(lake, source)
    assert [stream["kept"] for stream in receipt["streams"].values()] == ["byte for byte"]
    assert any(note.startswith("no video stays where it is") for note in receipt["notes"])
    assert lake.list("references") == []
    assert check(lake) == []


def test_what_no_episode_shows_any_more_is_forgotten_and_the_file_stays(lake, source):
    bring(lake, source)
    (orphan,) = lake.list("references")
    shutil.rmtree(Path(lake.root) / "tables" / "episodes")
    assert orphan in lake.vacuum(grace_hours=-1)["removed"]
    assert lake.list("references") == []
    assert (source / VIDEO).exists()
    assert bring(lake, source)["stored"]["episodes"] == 2  # the shard's entry went with it
    assert len(shown(lake)) == 21


def test_a_takedown_leaves_the_source_alone(lake, source):
    bring(lake, source)
    data = (source / VIDEO).read_bytes()
    rows = lake.episodes()
    remove(lake, episodes=[rows["episode_id"][0]])
    erase(lake)
    assert (source / VIDEO).read_bytes() == data
    assert lake.list("videos") == []
    assert len(lake.list("references")) == 1
    assert lake.episodes()["videos"].to_list() == rows["videos"].to_list()[1:]
    assert check(lake) == []
    again = bring(lake, source)
    assert (again["removed"], lake.list("videos")) == (1, [])
    remove(lake, dataset="set")
    erase(lake)
    assert lake.list("references") == []
    assert (source / VIDEO).read_bytes() == data


def test_what_is_no_mp4_is_copied_all_the_same_and_said(make_video, lake, tmp_path):
    (tmp_path / "films").mkdir()
    make_video("films/a.mkv", n=10, codec="libx264", g="4")
    make_video("films/b.mp4", n=10, codec="libx264", g="4")
    receipt = bring(lake, tmp_path / "films")
    assert {path: stream["kept"] for path, stream in receipt["streams"].items()} == {
        "a.mkv": "packets copied into MP4",
        "b.mp4": "by reference",
    }
    assert any(note.endswith("stay where they are; 1 lie in the lake") for note in receipt["notes"])
    assert (len(lake.list("videos")), len(lake.list("references"))) == (1, 1)
    assert check(lake) == []


def test_a_single_file_can_be_referred_to(make_video, lake):
    path = make_video("a.mp4", n=10, codec="libx264", g="4")
    (stream,) = bring(lake, path)["streams"].values()
    assert (stream["kept"], stream["uri"]) == ("by reference", str(path))
    assert check(lake) == []


def test_a_place_that_cannot_be_referred_to_is_refused_before_anything_is_written(lake, filmed):
    upload(filmed, "memory://set")
    with pytest.raises(RequestError, match="cannot be ingested by reference"):
        bring(lake, "memory://set")
    assert lake.tables() == []


@pytest.mark.parametrize(
    "uri", ["relative.mp4", "/data/../etc/passwd", "https://10.0.0.1/a.mp4", "s3://bucket/../a", "simplecache::/a"]
)
def test_a_reference_to_anywhere_else_is_refused(lake, source, uri):
    bring(lake, source)
    (path,) = lake.list("references")
    found = json.loads(lake.read_bytes(path))
    lake.write_bytes(path, json.dumps({**found, "uri": uri}).encode())
    for read in (lambda: shown(lake), lambda: seen(mixtures.open(frozen(lake)))):
        with pytest.raises(SourceError, match="is no reference"):
            read()
    assert set(whats(lake)) == {path}


def test_a_mixture_of_somebody_else_reads_no_other_file(lake, source, tmp_path):
    bring(lake, source)
    uri = frozen(lake)
    secret = tmp_path / "secret"
    size = (source / VIDEO).stat().st_size
    secret.write_bytes(b"s" * size)
    (path,) = lake.list("references")
    forged = {"uri": str(secret), "bytes": size, "stamp": str(os.stat(secret).st_mtime)}
    lake.write_bytes(path, json.dumps(forged).encode())
    with pytest.raises(SourceError, match="its bytes are others"):
        seen(mixtures.open(uri))
    secret.unlink()
    os.mkfifo(secret)  # would never end
    with pytest.raises(SourceError, match="is gone"):
        seen(mixtures.open(uri))
    assert set(whats(lake)) == {str(secret)}


def test_a_reference_that_is_lost_is_a_missing_video(lake, source):
    bring(lake, source)
    (path,) = lake.list("references")
    lake.remove(path)
    with pytest.raises(SourceError, match="is missing from the lake"):
        shown(lake)
    assert all("missing" in what for what in whats(lake).values())
    assert len(whats(lake)) == 1


def test_the_lake_says_what_is_not_its_own(lake, source):
    bring(lake, source)
    (blob,) = set(lake.episodes()["videos"].explode().struct.field("blob"))
    assert lake.is_reference(blob)
    assert not lake.is_reference(lake.episodes()["steps_file"][0])
    assert lake.list("references") == [pointer(blob)]
    assert find(lake.fs, lake.root, blob).uri == str(source / VIDEO)


def test_a_real_set_of_one_video_an_episode(shared_data, lake):
    root = shared_data / "g1_lerobot_v21"
    receipt = bring(lake, root, name="g1")
    assert receipt["stored"]["episodes"] == 6
    assert {stream["kept"] for stream in receipt["streams"].values()} == {"by reference"}
    for path, stream in receipt["streams"].items():
        assert stream["sha256"] == hashlib.sha256((root / path).read_bytes()).hexdigest()
    held = sum(lake.size(path) for path in lake.list())
    assert held < sum(stream["bytes"] for stream in receipt["streams"].values()) / 10
    assert check(lake, deep=False) == []
    mixture = mixtures.open(frozen(lake))
    samples = Samples(mixture, Windows(), split="train")
    batch = samples.read(0, np.arange(8))
    assert batch["observation.images.cam_high"].shape == (8, 1, 3, 480, 640)


def test_shards_refer_to_a_file_of_several_once(lake, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.ingest._SHARD_EPISODES", 1)
    write_v3(tmp_path / "set", [6, 5, 4], video=True)
    bring(lake, tmp_path / "set")
    assert len(lake.list("references")) == 1
    assert lake.episodes()["videos"].explode().struct.field("blob").n_unique() == 1
    assert check(lake) == []


def test_v2_sets_keep_a_reference_an_episode(lake, tmp_path):
    write_v2(tmp_path / "set", [6, 5], video=True)
    bring(lake, tmp_path / "set")
    assert len(lake.list("references")) == 2
    assert check(lake) == []
