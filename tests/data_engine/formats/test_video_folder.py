from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data_engine import mixture as mixtures
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EncodedVideo, Probe, Source, SourceEpisode, Unreadable, detect
from data_engine.formats.video_folder import VideoFolder
from data_engine.fs import filesystem
from data_engine.loader import MixtureDataset, collate
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from data_engine.video import FrameReader
from data_engine.windows import Windows
from flows.executor import Local
from flows.ingest import ingest
from flows.ingest_probe import preview
from flows.mix import mix
from flows.progress import silent
from flows.select import select
from storage.check import check
from storage.lake import Lake
from tests.data_engine.video.conftest import make_video as make_video
from tests.recordings import write_robomimic

TICKS = [0, 90, 210, 300, 390, 530, 600, 640, 800, 900]  # ms: no two gaps alike


def read(uri: Path | str, **options) -> tuple[Probe, dict[str, SourceEpisode | Unreadable]]:
    form, source = VideoFolder(**options), Source(str(uri))
    probe = form.probe(source)
    assert probe is not None
    return probe, {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}


def bring(lake: Lake, uri: Path | str, **options):
    recipe = SourceRecipe(name="films", uri=str(uri), options=options)
    return ingest(lake, recipe, on=Local(), progress=silent(), run_id="run_test")


def times_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.array(sorted(float(p.pts * p.time_base) for p in container.demux(video=0) if p.size))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"), create=True)


def test_real_videos_keep_their_bytes_and_times(shared_data: Path, lake: Lake) -> None:
    folder = shared_data / "videos"
    form, probe = detect(Source(str(folder)), options={"provenance": "human_video"})
    assert (form.name, probe.control_mode) == ("video_folder", "none")
    receipt = bring(lake, folder, provenance="human_video", operator="ann")
    assert receipt["stored"]["episodes"] == 3
    assert not receipt["quarantined"]
    for row, steps in lake.steps(lake.episodes()):
        path = folder / row["source_key"]
        times = times_of(path)
        assert steps["timestamp"].to_numpy() == pytest.approx(times - times[0], abs=1e-9)
        assert set(steps.column_names) == {"episode_id", "step", "timestamp"}
        (video,) = row["videos"]
        assert lake.local(video["blob"]).read_bytes() == path.read_bytes()
        assert (row["provenance"], row["operator"], row["control_mode"]) == ("human_video", "ann", "none")
    assert check(lake) == []


def test_a_varying_rate_keeps_its_times(make_video, lake: Lake) -> None:
    path = make_video("a.mp4", n=10, ticks=TICKS)
    _, episodes = read(path)
    (episode,) = episodes.values()
    assert episode.steps["timestamp"].to_pylist() == pytest.approx([t / 1000 for t in TICKS])
    bring(lake, path)
    ((row, steps),) = lake.steps(lake.episodes())
    (video,) = row["videos"]
    with FrameReader(lake.local(video["blob"])) as kept, FrameReader(path) as source:
        wanted = video["start_s"] + steps["timestamp"].to_numpy()
        np.testing.assert_array_equal(kept.at(wanted), source.at(source.times))


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")])
def test_other_containers_give_their_packets_to_an_mp4(make_video, lake: Lake, name: str, codec: str) -> None:
    path = make_video(name, n=10, codec=codec, ticks=None if name.endswith("avi") else [t + 70 for t in TICKS], g="4")
    receipt = bring(lake, path)
    ((row, steps),) = lake.steps(lake.episodes())
    (video,) = row["videos"]
    assert video["blob"].endswith(".mp4")
    kept = lake.local(video["blob"])

    def packets(file: Path) -> list[bytes]:
        with av.open(str(file)) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    assert packets(kept) == packets(path)
    assert "packets copied into MP4" in json.dumps(receipt)
    with FrameReader(kept) as ours, FrameReader(path) as theirs:
        np.testing.assert_allclose(video["start_s"] + steps["timestamp"].to_numpy(), ours.times, atol=1e-6)
        np.testing.assert_allclose(np.diff(ours.times), np.diff(theirs.times), atol=1e-6)
        np.testing.assert_array_equal(ours.at(ours.times), theirs.at(theirs.times))


def test_what_mp4_cannot_hold_is_encoded_once_and_said(make_video, lake: Lake) -> None:
    path = make_video("a.webm", n=10, codec="libvpx", ticks=TICKS)
    receipt = bring(lake, path)
    assert "encoded once, as MP4 cannot hold it" in json.dumps(receipt)
    ((row, steps),) = lake.steps(lake.episodes())
    (video,) = row["videos"]
    assert (video["codec"], video["frames"]) == ("av1", 10)
    with FrameReader(lake.local(video["blob"])) as kept, FrameReader(path) as source:
        frames = kept.at(video["start_s"] + steps["timestamp"].to_numpy()).astype(float)
        assert np.abs(frames - source.at(source.times)).mean() < 4


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 23), min_size=1, max_size=4, unique=True).map(sorted),
    form=st.sampled_from(["csv", "json", "jsonl", "tsv", "keyed"]),
)
def test_episodes_by_times_in_any_kind_of_sidecar(make_video, tmp_path, cuts, form) -> None:
    folder = tmp_path / "films"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    make_video("films/a.mp4", n=24, g="6")
    edges = [0, *cuts, 24]
    rows = [
        {
            "file_name": "a.mp4",
            "start": i / 10,
            "end": j / 10,
            "task": f"task {i}",
            "success": i % 2 == 0,
            "weather": "dry",
        }
        for i, j in itertools.pairwise(edges)
    ]
    if form in ("csv", "tsv"):
        pl.DataFrame(rows).write_csv(folder / f"about.{form}", separator="," if form == "csv" else "\t")
    elif form == "keyed":
        spans = [{key: value for key, value in row.items() if key != "file_name"} for row in rows]
        (folder / "about.json").write_text(json.dumps({"a.mp4": spans}))
    else:
        lines = [json.dumps(row) for row in rows]
        (folder / f"about.{form}").write_text("\n".join(lines) if form == "jsonl" else f"[{','.join(lines)}]")
    probe, episodes = read(folder)
    assert len(episodes) == len(rows)
    assert probe.episodes[0].files == ("a.mp4", "about.json" if form == "keyed" else f"about.{form}")
    for (i, j), row, episode in zip(itertools.pairwise(edges), rows, episodes.values(), strict=True):
        assert isinstance(episode, SourceEpisode)
        assert episode.steps["timestamp"].to_pylist() == pytest.approx([k / 10 for k in range(j - i)])
        assert (episode.task, episode.success, episode.attributes) == (row["task"], row["success"], {"weather": "dry"})
        video = episode.cameras["video"]
        assert isinstance(video, EncodedVideo)
        assert video.start_s == pytest.approx(i / 10)
        with FrameReader(folder / "a.mp4") as reader:
            assert reader.count(video.start_s, video.end_s) == j - i


def test_spans_go_into_the_lake_with_their_own_frames(make_video, tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "films").mkdir()
    path = make_video("films/a.mkv", n=24, g="6")
    rows = [{"video": "a", "start_s": 0.5, "end_s": 1.2, "caption": "first"}, {"video": "a", "start_s": 1.2}]
    (tmp_path / "films" / "about.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make_video("films/b.mp4", n=5)
    receipt = bring(lake, tmp_path / "films", camera="head")
    assert receipt["stored"] == {"episodes": 3, "steps": 7 + 12 + 5, "frames": {"head": 24}}
    assert any("1 videos are not in about.jsonl" in note for note in receipt["notes"])
    found = {row["source_key"]: (row, steps) for row, steps in lake.steps(lake.episodes())}
    assert set(found) == {"a.mkv[0.5:1.2]", "a.mkv[1.2:]", "b.mp4"}
    row, steps = found["a.mkv[0.5:1.2]"]
    assert row["language"] == ["first"]
    (video,) = row["videos"]
    with FrameReader(lake.local(video["blob"])) as kept, FrameReader(path) as source:
        frames = kept.at(video["start_s"] + steps["timestamp"].to_numpy())
        np.testing.assert_array_equal(frames, source.at(source.times[5:12]))
    assert check(lake) == []


def test_videos_train_beside_demonstrations(make_video, tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "films").mkdir()
    for number in range(3):
        make_video(f"films/{number}.mp4", n=8, seed=number)
    bring(lake, tmp_path / "films", embodiment="human")
    robot = write_robomimic(tmp_path / "robot.hdf5", episodes=6)
    common = {"on": Local(), "progress": silent(), "run_id": "run_test"}
    ingest(lake, SourceRecipe(name="robot", uri=str(robot)), **common)
    for name in ("films", "robot"):
        recipe = SelectRecipe(name=name, method="filter")
        select(lake, recipe, lake.episodes(dataset=name), progress=silent(), run_id="run_test")
    answer = mix(lake, MixtureRecipe(entries=[{"selection": "films"}, {"selection": "robot"}]), run_id="run_test")
    mixture = mixtures.open(answer["uri"], cache_dir=tmp_path / "cache")
    loader = DataLoader(MixtureDataset(mixture, Windows(cameras=(), action_horizon=4)), 32, collate_fn=collate)
    batch = next(iter(loader))
    films = torch.tensor([name == "films" for name in batch["dataset"]])
    assert 0 < films.sum() < 32
    assert torch.equal(batch["action_is_absent"], films)
    assert torch.equal(batch["observation.state_is_absent"], films)
    assert batch["action_is_pad"][films].all()
    assert not batch["action"][films].any()
    assert batch["action"][~films].any()
    frames = next(s for s in mixture.samples(Windows(history=2)) if s["dataset"] == "films")
    assert frames["observation.images.video"].shape == (2, 3, 64, 96)


HOSTILE = {
    "concat.mp4": b"ffconcat version 1.0\nfile good.mp4\n",
    "list.mkv": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\ngood.mp4\n#EXT-X-ENDLIST\n",
    "session.mov": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "dash.webm": b'<?xml version="1.0"?><MPD><Period><BaseURL>good.mp4</BaseURL></Period></MPD>',
    "empty.avi": b"",
    "header.m4v": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
}


def test_hostile_files_are_quarantined_and_the_rest_goes_in(make_video, tmp_path: Path, lake: Lake) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for name, data in HOSTILE.items():
        (folder / name).write_bytes(data)
    make_video("films/good.mp4", n=4)
    receipt = bring(lake, folder)
    assert {bad["key"] for bad in receipt["quarantined"]} == set(HOSTILE)
    assert receipt["stored"]["episodes"] == 1
    for name in HOSTILE:
        with pytest.raises(SourceError, match=r"no video of .* can be read"):
            VideoFolder().probe(Source(str(folder / name)))


def test_a_sidecar_leads_nowhere_else(make_video, tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "films").mkdir()
    make_video("films/a.mp4", n=4)
    make_video("secret.mp4", n=4)
    (tmp_path / "films" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    secret = str(tmp_path / "secret.mp4")
    rows = ["a.mp4", "../secret.mp4", secret, "link.mp4", "gone.mp4", "concat:a.mp4|a.mp4"]
    (tmp_path / "films" / "about.csv").write_text("file\n" + "\n".join(rows) + "\n")
    receipt = bring(lake, tmp_path / "films")
    assert receipt["stored"]["episodes"] == 1
    codes = {bad["key"]: bad["code"] for bad in receipt["quarantined"]}
    assert {codes["../secret.mp4"], codes["link.mp4"], codes[secret]} == {"bad_path"}
    assert {codes["gone.mp4"], codes["concat:a.mp4|a.mp4"]} == {"no_video"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,start\nv.mp4,soon\n", "'soon' is no time"),
        ("a.csv", "file,start,end\nv.mp4,3,2\n", "no span"),
        ("a.csv", "file\nv.mp4\nv.mp4\n", "lists v.mp4 twice"),
        ("a.json", "[1, 2]", "no column that names files"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.jsonl", '{"file": "v.mp4"}\n{', "cannot be read"),
        ("a.csv", b"file\n\xff\xfe\n", "cannot be read"),
    ],
)
def test_broken_sidecars_are_one_clear_line(make_video, tmp_path: Path, name, text, message) -> None:
    (tmp_path / "films").mkdir()
    make_video("films/v.mp4", n=2)
    (tmp_path / "films" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EngineError, match=message) as raised:
        read(tmp_path / "films", sidecar=name)
    assert "\n" not in str(raised.value)


def test_what_a_sidecar_is_must_be_clear(make_video, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    make_video("films/v.mp4", n=2)
    (tmp_path / "films" / "notes.json").write_text('{"camera": {"lens": 3}}')
    probe = read(tmp_path / "films")[0]
    assert ([ref.key for ref in probe.episodes], probe.notes) == (["v.mp4"], ())
    for name in ("one.csv", "two.csv"):
        (tmp_path / "films" / name).write_text("file,task\nv.mp4,wipe\n")
    with pytest.raises(RequestError, match=r"one\.csv and two\.csv both list files"):
        read(tmp_path / "films")
    with pytest.raises(RequestError, match="no sidecar"):
        read(tmp_path / "films", sidecar="three.csv")
    with pytest.raises(RequestError, match="single video"):
        read(tmp_path / "films" / "v.mp4", sidecar="one.csv")
    assert read(tmp_path / "films", sidecar="one.csv")[1]["v.mp4"].task == "wipe"


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "file;task\nv.mp4;w\u0131pe \u2028 \u00e9\n"),
        ("a.csv", "file,task\nv.mp4,w\u0131pe \u2028 \u00e9\n"),
        ("a.json", '[{"file": "v.mp4", "task": "w\u0131pe \u2028 \u00e9"}]'),
        ("a.jsonl", '{"file": "v.mp4", "task": "w\u0131pe \u2028 \u00e9"}\r\n'),
    ],
)
def test_sidecars_of_every_coding_say_the_same(make_video, tmp_path: Path, coding, name, text) -> None:
    (tmp_path / "films").mkdir()
    make_video("films/v.mp4", n=2)
    (tmp_path / "films" / name).write_bytes(text.encode(coding))
    assert read(tmp_path / "films")[1]["v.mp4"].task == "w\u0131pe \u2028 \u00e9"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (b"file,task\nv.mp4,\xff\n", "about.csv cannot be read"),
        (b"file,task\nw.mp4,wipe\n", "about.csv names no video"),
    ],
)
def test_a_table_that_may_have_been_meant_is_not_passed_over_in_silence(make_video, tmp_path: Path, text, note) -> None:
    (tmp_path / "films").mkdir()
    make_video("films/v.mp4", n=2)
    (tmp_path / "films" / "about.csv").write_bytes(text)
    (said,) = read(tmp_path / "films")[0].notes
    assert said.startswith(note) and "left out" in said


def test_a_name_that_is_no_utf8_spoils_its_own_episode_only(make_video, tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "films").mkdir()
    for name in (b"caf\xe9.mp4", "caf\u00e9.mp4".encode()):
        make_video(os.fsdecode(b"films/" + name), n=2)
    recipe = SourceRecipe(name="films", uri=str(tmp_path / "films"))
    assert [bad["key"] for bad in preview(recipe)["quarantined"]] == ["caf\\xe9.mp4"]
    for again in (False, True):
        receipt = bring(lake, tmp_path / "films")
        assert [(bad["key"], bad["code"]) for bad in receipt["quarantined"]] == [("caf\\xe9.mp4", "bad_name")]
        assert (receipt["in"]["episodes"], receipt["unchanged"]) == (2, int(again))
    assert lake.episodes()["source_key"].to_list() == ["caf\u00e9.mp4"]
    assert lake.scan("quarantine").collect()["source_key"].to_list() == ["caf\\xe9.mp4"]
    assert check(lake) == []


def test_unlike_videos_are_read_and_noted(make_video, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    make_video("films/a.mp4", n=4)
    make_video("films/b.mp4", n=4, ticks=[0, 20, 40, 60])
    _, episodes = read(tmp_path / "films")
    assert episodes["b.mp4"].notes == ("b.mp4 runs at 50 frames a second, the first video at 10",)


def test_from_an_object_store(make_video, tmp_path: Path, s3: str, lake: Lake) -> None:
    (tmp_path / "films").mkdir()
    make_video("films/a.mkv", n=8)
    (tmp_path / "films" / "deep").mkdir()
    make_video("films/deep/b.mp4", n=4)
    (tmp_path / "films" / "about.csv").write_text("file,task\na.mkv,wipe\n")
    fs, path = filesystem(f"{s3}/films")
    fs.put(str(tmp_path / "films"), path, recursive=True)
    receipt = bring(lake, f"{s3}/films")
    assert receipt["stored"] == {"episodes": 2, "steps": 12, "frames": {"video": 12}}
    assert {row["source_key"]: row["task"] for row in lake.episodes().iter_rows(named=True)} == {
        "a.mkv": "wipe", "deep/b.mp4": None,
    }  # fmt: skip
    assert check(lake) == []


def test_other_sources_are_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("file\na.mp4\n")
    assert VideoFolder().probe(Source(str(tmp_path))) is None
    assert VideoFolder().probe(Source(str(tmp_path / "notes.csv"))) is None
