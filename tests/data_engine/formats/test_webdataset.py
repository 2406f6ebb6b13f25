from __future__ import annotations

import contextlib
import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import mixture as mixtures
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EncodedVideo, Probe, RawFrames, Source, SourceEpisode, Unreadable, detect
from data_engine.formats.tar_shard import _walk
from data_engine.formats.webdataset import WebDataset
from data_engine.fs import filesystem
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from data_engine.video import FrameReader, encode
from data_engine.windows import Windows
from flows.executor import Local
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.select import select
from storage.check import check
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import image, png

MAP = {"columns": {"observation.state": "state", "action": "action"}, "cameras": {"front": "front"}}


def npy(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(values), allow_pickle=False)
    return out.getvalue()


def npz(**values: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **values)
    return out.getvalue()


def film(folder: Path, frames: int, fps: float = 10) -> bytes:
    path = folder / "film.mp4"
    encode((image(i) for i in range(frames)), path, fps)
    return path.read_bytes()


def write(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def steps(lengths: list[int], first: int = 0) -> list[tuple[str, bytes]]:
    """A sample a step: state, action, a picture, JSON."""
    members = []
    for episode, length in enumerate(lengths, first):
        for t in range(length):
            key = f"ep{episode}/step_{t:04d}"
            about = {
                "episode": episode,
                "t": t,
                "pose": {"x": t / 4, "grip": [t, episode]},
                "task": f"task {episode}",
                "last": t == length - 1,
            }
            members += [
                (f"{key}.state.npy", npy(np.array([episode, t, 7], np.float32))),
                (f"{key}.action.npy", npy(np.array([t, -t], np.float64))),
                (f"{key}.front.png", png(image(t + episode, (16, 24)))),
                (f"{key}.json", json.dumps(about).encode()),
            ]
    return members


def read(uri: Path | str, **options: Any) -> tuple[Probe, dict[str, SourceEpisode | Unreadable]]:
    form, source = WebDataset(**options), Source(str(uri))
    probe = form.probe(source)
    assert probe is not None
    return probe, {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}


def good(uri: Path | str, **options: Any) -> dict[str, SourceEpisode]:
    _, episodes = read(uri, **options)
    assert all(isinstance(episode, SourceEpisode) for episode in episodes.values()), episodes
    return episodes  # type: ignore[return-value]


def bring(lake: Lake, uri: Path | str, **options: Any) -> dict[str, Any]:
    recipe = SourceRecipe(name="shards", uri=str(uri), options=options)
    return ingest(lake, recipe, on=Local(), progress=silent(), run_id="run_test")


def frames(episode: SourceEpisode, camera: str = "front") -> np.ndarray:
    given = episode.cameras[camera]
    assert isinstance(given, RawFrames)
    return np.stack(list(given.frames()))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"), create=True)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    suffix=st.sampled_from([".tar", ".tar.gz", ".tgz"]),
    how=st.sampled_from(["key", "json/episode"]),
    folder=st.booleans(),
)
def test_a_sample_a_step_round_trips(tmp_path_factory, lengths, suffix, how, folder) -> None:
    root = tmp_path_factory.mktemp("shards")
    path = write(root / f"a{suffix}", steps(lengths))
    if folder:
        write(root / f"b{suffix}", steps([2], first=90))
    columns = {**MAP["columns"], "pose": ["json/pose/x", "json/pose/grip"], "terminated": "json/last"}
    options = {"map": {**MAP, "columns": columns}, "episodes": how, "fps": 4}
    episodes = good(root if folder else path, **options)
    if folder:
        del episodes["ep90/step" if how == "key" else "episode_000090"]
    assert list(episodes) == [f"ep{i}/step" if how == "key" else f"episode_{i:06d}" for i in range(len(lengths))]
    for number, (length, episode) in enumerate(zip(lengths, episodes.values(), strict=True)):
        t = np.arange(length)
        found = episode.steps.to_pydict()
        assert found["timestamp"] == (t / 4).tolist()
        assert found["observation.state"] == [[number, i, 7] for i in range(length)]
        assert found["action"] == [[i, -i] for i in range(length)]
        assert found["pose"] == [[i / 4, i, number] for i in range(length)]
        assert found["terminated"] == [i == length - 1 for i in range(length)]
        assert episode.task == f"task {number}"
        np.testing.assert_array_equal(frames(episode), [image(i + number, (16, 24)) for i in range(length)])


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    dtype=st.sampled_from(["float16", "float32", "float64", "int16", "uint8", "bool"]),
    packed=st.booleans(),
)
def test_a_sample_an_episode_round_trips(tmp_path_factory, lengths, dtype, packed) -> None:
    rng = np.random.default_rng(0)
    arrays = [{"state": rng.normal(size=(n, 3)).astype(dtype), "action": rng.normal(size=(n, 2))} for n in lengths]
    members: list[tuple[str, bytes]] = []
    for number, one in enumerate(arrays):
        about = json.dumps({"success": number % 2 == 0, "operator": "ann", "grade": number}).encode()
        files = [("npz", npz(**one))] if packed else [(f"{name}.npy", npy(value)) for name, value in one.items()]
        members += [
            (f"demo.{number}"[:4] + f"_{number}.{name}", data)
            for name, data in [*files, ("json", about), ("txt", b"push it\n")]
        ]
    path = write(tmp_path_factory.mktemp("shards") / "a.tar", members)
    prefix = "npz/" if packed else ""
    columns = {"observation.state": f"{prefix}state", "action": [f"{prefix}action[1:2]", f"{prefix}action[0:1]"]}
    episodes = good(path, map={"columns": columns}, episodes="sample", fps=5)
    for number, (one, episode) in enumerate(zip(arrays, episodes.values(), strict=True)):
        assert episode.steps["observation.state"].to_pylist() == one["state"].tolist()
        assert episode.steps["action"].to_pylist() == one["action"][:, ::-1].tolist()
        assert (episode.success, episode.operator, episode.language) == (number % 2 == 0, "ann", ("push it",))
        assert episode.attributes["grade"] == number


def test_a_guess_is_shown_and_refused_until_it_is_confirmed(tmp_path: Path, lake: Lake) -> None:
    path = write(tmp_path / "a.tar", steps([3, 4]))
    form, probe = detect(Source(str(path)))
    assert form.name == "webdataset"
    assert probe.proposal is not None
    assert probe.proposal["episodes"] == "json/episode"
    assert probe.proposal["map"]["cameras"] == {"front": "front"}
    assert probe.proposal["map"]["columns"]["observation.state"] == "state"
    assert probe.proposal["map"]["columns"]["action"] == "action"
    with pytest.raises(RequestError, match="only a guess"):
        bring(lake, path)
    assert bring(lake, path, **probe.proposal)["stored"] == {"episodes": 2, "steps": 7, "frames": {"front": 7}}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_into_the_lake_and_out_through_the_loader(tmp_path: Path, lake: Lake, suffix: str) -> None:
    write(tmp_path / "set" / f"0{suffix}", steps([4, 5]))
    write(tmp_path / "set" / f"1{suffix}", steps([6], first=2))
    receipt = bring(lake, tmp_path / "set", map=MAP, episodes="key", fps=10)
    assert receipt["stored"] == {"episodes": 3, "steps": 15, "frames": {"front": 15}}
    assert check(lake) == []
    select(lake, SelectRecipe(name="all", method="filter"), lake.episodes(), progress=silent(), run_id="run_test")
    answer = mix(lake, MixtureRecipe(entries=[{"selection": "all"}], weight_kind="repeat"), run_id="run_test")
    mixture = mixtures.open(answer["uri"], cache_dir=tmp_path / "cache")
    seen = {tuple(s["observation.state"][0, :2].astype(int)): s for s in mixture.samples(Windows(1, 1))}
    assert set(seen) == {(e, t) for e, n in enumerate((4, 5, 6)) for t in range(n)}
    for (episode, t), sample in seen.items():
        assert sample["action"].tolist() == [[t, -t]]
        shade = sample["observation.images.front"][0].astype(int) - image(t + episode, (16, 24)).transpose(2, 0, 1)
        assert np.abs(shade).max() <= 2


def test_video_stays_as_it_is_and_gives_the_clock(tmp_path: Path, lake: Lake) -> None:
    members = []
    for number, length in enumerate((6, 8)):
        members += [(f"clip{number}.mp4", film(tmp_path, length)), (f"clip{number}.txt", b"fold the towel")]
    path = write(tmp_path / "films.tar", members)
    _, probe = detect(Source(str(path)))
    assert probe.proposal == {
        "episodes": "sample",
        "map": {"columns": {}, "cameras": {"mp4": "mp4"}, "clock": "mp4/time"},
    }
    receipt = bring(lake, path, **probe.proposal)
    assert receipt["stored"] == {"episodes": 2, "steps": 14, "frames": {"mp4": 14}}
    contents = dict(members)
    for row, table in lake.steps(lake.episodes()):
        (video,) = row["videos"]
        assert lake.local(video["blob"]).read_bytes() == contents[f"{row['source_key']}.mp4"]
        assert table["timestamp"].to_numpy() == pytest.approx(np.arange(len(table)) / 10)
        assert row["language"] == ["fold the towel"]


def test_video_beside_arrays(tmp_path: Path, lake: Lake) -> None:
    members = [
        ("a.front.mp4", film(tmp_path, 5)),
        ("a.action.npy", npy(np.ones((5, 2)))),
        ("b.front.mp4", film(tmp_path, 5)),
        ("b.action.npy", npy(np.ones((4, 2)))),
    ]
    path = write(tmp_path / "films.tar", members)
    options = {"map": {"columns": {"action": "action"}, "cameras": {"front": "front"}}, "episodes": "sample", "fps": 10}
    _, episodes = read(path, **options)
    assert isinstance(episodes["a"], SourceEpisode)
    assert isinstance(episodes["a"].cameras["front"], EncodedVideo)
    assert isinstance(episodes["b"], Unreadable)
    assert episodes["b"].code == "lengths_differ"
    receipt = bring(lake, path, **options)
    assert receipt["stored"]["episodes"] == 1
    (video,) = lake.episodes()["videos"][0].to_list()
    with FrameReader(lake.local(video["blob"])) as reader:
        assert len(reader.times) == 5


def hostile(kind: bytes, name: str = "b.state.npy", link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


TRAPS: dict[str, Callable[[tarfile.TarFile], None]] = {
    "symlink": lambda archive: archive.addfile(hostile(tarfile.SYMTYPE, link="/etc/passwd")),
    "hard link": lambda archive: archive.addfile(hostile(tarfile.LNKTYPE, link="../../secret")),
    "device": lambda archive: archive.addfile(hostile(tarfile.CHRTYPE)),
    "pipe": lambda archive: archive.addfile(hostile(tarfile.FIFOTYPE)),
    "absolute": lambda archive: add(archive, "/b.state.npy", npy([1.0])),
    "climbing": lambda archive: add(archive, "../b.state.npy", npy([1.0])),
    "twice": lambda archive: [add(archive, "b.state.npy", npy([1.0])) for _ in range(2)] and None,
    "pickled": lambda archive: add(archive, "b.state.npy", pickled()),
    "no npy": lambda archive: add(archive, "b.state.npy", b"nonsense"),
    "lying npy": lambda archive: add(archive, "b.state.npy", npy(np.zeros(3)).replace(b"(3,)", b"(9,)")),
    "huge npy": lambda archive: add(archive, "b.state.npy", npy(np.zeros(3)).replace(b"(3,), ", b"(1<<60,)")),
    "deep json": lambda archive: add(archive, "b.state.json", b"[" * 100_000),
    "bad text": lambda archive: add(archive, "b.txt", b"\xff\xfe"),
    "bad cls": lambda archive: add(archive, "b.cls", b"seven"),
}


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Evil()], dtype=object), allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_one_bad_episode(tmp_path: Path, trap: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "a.action.npy", npy(np.ones((3, 2))))
        add(archive, "b.action.npy", npy(np.ones((3, 2))))
        TRAPS[trap](archive)
        add(archive, "c.action.npy", npy(np.ones((3, 2))))
    _, episodes = read(path, map={"columns": {"action": "action"}}, episodes="sample", fps=5)
    good_ones = {key for key, episode in episodes.items() if isinstance(episode, SourceEpisode)}
    assert {"a", "c"} <= good_ones
    bad = next(episode for episode in episodes.values() if isinstance(episode, Unreadable))
    assert bad.key.strip("/.") == "b"
    assert "\n" not in bad.reason


def test_pickles_and_unknown_types_are_left_alone_and_noted(tmp_path: Path) -> None:
    members = [(f"a.{name}", pickle.dumps(Evil())) for name in ("pkl", "pyd", "pth")]
    path = write(tmp_path / "a.tar", [("a.action.npy", npy(np.ones((3, 2)))), *members])
    probe, episodes = read(path, map={"columns": {"action": "action"}}, episodes="sample", fps=5)
    assert isinstance(episodes["a"], SourceEpisode)
    assert {note for note in probe.notes if "not read" in note} == {
        f"a.tar: 1 {kind} files are not read" for kind in ("pkl", "pth", "pyd")
    }


def test_shards_that_break_or_lie(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.tar", [(f"{i}.action.npy", npy(np.ones((40, 2)))) for i in range(9)]).read_bytes()
    options = {"map": {"columns": {"action": "action"}}, "episodes": "sample", "fps": 5}
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    _, episodes = read(tmp_path / "cut.tar", **options)
    found = list(episodes.values())
    assert isinstance(found[0], SourceEpisode)
    assert isinstance(found[-1], Unreadable)
    assert all(isinstance(episode, SourceEpisode) for episode in found[:-1])
    packed = gzip.compress(whole, mtime=0)
    (tmp_path / "cut.tar.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(EngineError) as raised:
        read(tmp_path / "cut.tar.gz", **options)
    assert "\n" not in str(raised.value)
    for name, data in (("text.tar", b"ffconcat version 1.0\n" * 60), ("empty.tar", b""), ("junk.tgz", b"\x1f\x8bjunk")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=r"no tar|no samples|damaged"):
            WebDataset().probe(Source(str(tmp_path / name)))
    header = bytearray(whole)
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (tmp_path / "long.tar").write_bytes(long.tobuf(tarfile.GNU_FORMAT) + bytes(header))
    with pytest.raises(SourceError, match="no tar"):
        WebDataset().probe(Source(str(tmp_path / "long.tar")))


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.text("ab/é. _-", min_size=1, max_size=130), min_size=1, max_size=6, unique=True),
    sizes=st.lists(st.integers(0, 1200), min_size=6, max_size=6),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_where_tarfile_finds_them(tmp_path_factory, names, sizes, form) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    with tarfile.open(path, "w", format=form) as archive:
        for name, size in zip(names, sizes, strict=False):
            info = tarfile.TarInfo(f"x{name}y")
            info.size = size
            with contextlib.suppress(ValueError):  # ustar takes no name that long
                archive.addfile(info, io.BytesIO(bytes(size)))
    if path.stat().st_size == 0:
        return
    with tarfile.open(path) as archive, path.open("rb") as file:
        expected = [(info.name, info.offset_data, info.size) for info in archive.getmembers()]
        with tarfile.open(path) as again:
            found = [(info.name, info.offset_data, info.size) for info in _walk(again, file)]
    assert found == expected


def test_samples_of_an_episode_lie_together(tmp_path: Path) -> None:
    members = steps([3, 3])
    path = write(tmp_path / "a.tar", members[:8] + members[12:] + members[8:12])
    _, episodes = read(path, map=MAP, episodes="json/episode", fps=5)
    assert isinstance(episodes["episode_000000"], Unreadable)
    assert episodes["episode_000000"].code == "scattered"
    assert isinstance(episodes["episode_000001"], SourceEpisode)


def test_a_step_that_lacks_a_field_or_holds_another_shape(tmp_path: Path) -> None:
    members = steps([3, 3, 3])
    del members[4]  # state of step 1 of episode 0
    members[15] = (members[15][0], npy(np.zeros(2)))
    _, episodes = read(write(tmp_path / "a.tar", members), map=MAP, episodes="key", fps=5)
    codes = [episode.code if isinstance(episode, Unreadable) else "" for episode in episodes.values()]
    assert codes[0] == "missing_field"
    assert codes[1] == "layout_differs"
    assert codes[2] == ""


def test_keys_are_cut_at_their_last_number(tmp_path: Path) -> None:
    names: Mapping[str, str] = {"run1-000000": "run1", "run1-000001": "run1", "run2-000000": "run2"}
    members = [(f"{key}.action.npy", npy(np.zeros(2))) for key in names]
    episodes = good(write(tmp_path / "a.tar", members), map={"columns": {"action": "action"}}, episodes="key", fps=5)
    assert {key: episode.steps.num_rows for key, episode in episodes.items()} == {"run1": 2, "run2": 1}


def test_from_an_object_store(tmp_path: Path, s3: str, lake: Lake) -> None:
    write(tmp_path / "set" / "0.tar", steps([3]))
    write(tmp_path / "set" / "1.tar.gz", steps([4], first=1))
    fs, path = filesystem(f"{s3}/set")
    fs.put(str(tmp_path / "set"), path, recursive=True)
    receipt = bring(lake, f"{s3}/set", map=MAP, episodes="key", fps=10)
    assert receipt["stored"] == {"episodes": 2, "steps": 7, "frames": {"front": 7}}
    here, there = (
        good(tmp_path / "set", map=MAP, episodes="key", fps=10),
        good(f"{s3}/set", map=MAP, episodes="key", fps=10),
    )
    for one, other in zip(here.values(), there.values(), strict=True):
        assert one.steps.equals(other.steps)
        np.testing.assert_array_equal(frames(one), frames(other))


def test_other_sources_are_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert WebDataset().probe(Source(str(tmp_path))) is None
    assert WebDataset().probe(Source(str(tmp_path / "a.zip"))) is None
