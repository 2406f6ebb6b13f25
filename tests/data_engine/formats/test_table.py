from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import mixture as mixtures
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import Probe, RawFrames, Source, SourceEpisode, Unreadable, detect
from data_engine.formats.table import Table
from data_engine.fs import filesystem
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from data_engine.windows import Windows
from flows.executor import Local
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.select import select
from storage.check import check
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import image, png

MAP = {
    "columns": {"observation.state": "state", "action": "action", "reward": "reward"},
    "cameras": {"front": "image"},
    "episode": {"task": "task"},
    "clock": "time",
}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def rows(lengths: list[int], seed: int = 0) -> pa.Table:
    """A row a step; about a fifth of the rewards and some whole states are null."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    state = [
        None if hole else row for hole, row in zip(rng.random(n) < 0.1, rng.normal(size=(n, 3)).tolist(), strict=True)
    ]
    return pa.table(
        {
            "episode": pa.array(np.repeat(np.arange(len(lengths)) * 3, lengths)),
            "time": np.concatenate([np.arange(length) / 20 + 5 for length in lengths]),
            "state": pa.array(state, pa.list_(pa.float32())),
            "action": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=2 * n)), 2),
            "reward": pa.array(rng.integers(0, 9, n), mask=rng.random(n) < 0.2),
            "task": [f"task {i % 2}" for i in np.repeat(np.arange(len(lengths)), lengths)],
            "image": pa.array([{"bytes": png(image(i, (16, 24))), "path": None} for i in range(n)], IMAGE),
            "spare": pa.array(np.arange(n)),
        }
    )


def write(path: Path, table: pa.Table, group: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=group)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path, compression="zstd", chunksize=group)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=group)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=group)


def read(uri: Path | str, **options: Any) -> tuple[Probe, dict[str, SourceEpisode | Unreadable]]:
    form, source = Table(**options), Source(str(uri))
    probe = form.probe(source)
    assert probe is not None
    return probe, {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}


def good(uri: Path | str, **options: Any) -> list[SourceEpisode]:
    episodes = list(read(uri, **({"map": MAP, "episodes": "episode"} | options))[1].values())
    assert all(isinstance(episode, SourceEpisode) for episode in episodes), episodes
    return episodes  # type: ignore[return-value]


def bring(lake: Lake, uri: Path | str, **options: Any) -> dict[str, Any]:
    recipe = SourceRecipe(name="table", uri=str(uri), options=options)
    return ingest(lake, recipe, on=Local(), progress=silent(), run_id="run_test")


def frames(episode: SourceEpisode, camera: str = "front") -> np.ndarray:
    given = episode.cameras[camera]
    assert isinstance(given, RawFrames)
    found = np.stack(list(given.frames()))
    assert found.shape[1:3] == (given.height, given.width)
    return found


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"), create=True)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    suffix=st.sampled_from([".parquet", ".feather", ".arrow", ".arrows"]),
    cuts=st.lists(st.integers(0, 40), max_size=3).map(sorted),
    group=st.integers(1, 12),
)
def test_any_table_round_trips(tmp_path_factory, lengths, suffix, cuts, group) -> None:
    folder, table = tmp_path_factory.mktemp("table"), rows(lengths)
    edges = [0, *(min(cut, len(table)) for cut in cuts), len(table)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):  # episodes cross the files' borders
        write(folder / f"part-{number}{suffix}", table.slice(start, stop - start), group)
    start = 0
    for number, (length, episode) in enumerate(zip(lengths, good(folder), strict=True)):
        part = table.slice(start, length)
        assert (episode.key, episode.task) == (f"episode_{number * 3:06d}", f"task {number % 2}")
        assert episode.steps["timestamp"].to_numpy() == pytest.approx(np.arange(length) / 20)
        assert episode.steps["observation.state"].to_pylist() == part["state"].to_pylist()
        assert episode.steps["action"].to_pylist() == part["action"].to_pylist()
        assert episode.steps["reward"].to_pylist() == part["reward"].to_pylist()
        expected = np.stack([image(i, (16, 24)) for i in range(start, start + length)])
        np.testing.assert_array_equal(frames(episode), expected)
        start += length


def test_a_guess_is_shown_and_refused_until_it_is_confirmed(tmp_path: Path, lake: Lake) -> None:
    write(tmp_path / "a.parquet", rows([4, 5]))
    form, probe = detect(Source(str(tmp_path / "a.parquet")))
    assert form.name == "table"
    assert probe.proposal == {
        "episodes": "episode",
        "map": {
            "columns": {"observation.state": "state", "action": "action", "reward": "reward", "spare": "spare"},
            "cameras": {"image": "image"},
            "episode": {"task": "task"},
            "clock": "time",
        },
    }
    with pytest.raises(RequestError, match="only a guess"):
        bring(lake, tmp_path / "a.parquet")
    receipt = bring(lake, tmp_path / "a.parquet", **probe.proposal)
    assert receipt["stored"] == {"episodes": 2, "steps": 9, "frames": {"image": 9}}


def test_into_the_lake_and_out_through_the_loader(tmp_path: Path, lake: Lake) -> None:
    table = rows([6, 7]).set_column(
        2, "state", pa.array(np.arange(39.0).reshape(13, 3).tolist(), pa.list_(pa.float32()))
    )
    write(tmp_path / "set" / "a.parquet", table)
    receipt = bring(lake, tmp_path / "set", map=MAP, episodes="episode", fps=20)
    assert receipt["in"] | {"episodes": 2, "steps": 13} == receipt["in"]
    assert any("left out: spare" in note for note in receipt["notes"])
    for row, steps in lake.steps(lake.episodes()):
        first = 0 if row["source_key"] == "episode_000000" else 6
        assert steps["reward"].to_pylist() == table["reward"].slice(first, len(steps)).to_pylist()
    assert check(lake) == []
    select(lake, SelectRecipe(name="all", method="filter"), lake.episodes(), progress=silent(), run_id="run_test")
    answer = mix(lake, MixtureRecipe(entries=[{"selection": "all"}], weight_kind="repeat"), run_id="run_test")
    mixture = mixtures.open(answer["uri"], cache_dir=tmp_path / "cache")
    seen = {int(s["observation.state"][0, 0]): s for s in mixture.samples(Windows(1, 1))}
    assert sorted(seen) == list(range(0, 39, 3))
    for number, sample in enumerate(seen[i] for i in range(0, 39, 3)):
        shade = sample["observation.images.front"].astype(int) - image(number, (16, 24)).transpose(2, 0, 1)
        assert np.abs(shade).max() <= 2


def test_parts_joins_flags_and_nested_fields(tmp_path: Path) -> None:
    inner = pa.StructArray.from_arrays(
        [pa.array([[1.0, 2.0, 3.0, 4.0], None, [5.0, 6.0, 7.0, 8.0]]), pa.array([9, 10, 11], pa.int16())],
        names=["qpos", "grip"],
    )
    texts = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.table(
        {
            "obs": inner,
            "obs.extra": [1, 2, 3],
            "done": [0, 0, 1],
            "text": texts,
            "when": pa.array([0, 1, 2], pa.timestamp("us")),
        }
    )
    write(tmp_path / "a.parquet", table)
    columns = {
        "observation.state": ["obs.qpos[0:2]", "obs.grip"], "observation.rest": "obs.qpos[2:]", "extra": "obs.extra",
        "terminated": "done", "text": "text", "when": "when",
    }  # fmt: skip
    probe, episodes = read(tmp_path / "a.parquet", map={"columns": columns}, episodes=".", fps=4)
    (episode,) = episodes.values()
    assert isinstance(episode, SourceEpisode)
    steps = episode.steps.to_pydict()
    assert steps["observation.state"] == [[1, 2, 9], None, [5, 6, 11]]
    assert steps["observation.rest"] == [[3, 4], None, [7, 8]]
    assert (steps["extra"], steps["terminated"]) == ([1, 2, 3], [False, False, True])
    assert (steps["text"], steps["when"]) == (["a", "b", "a"], [0, 1, 2])
    assert steps["timestamp"] == [0, 0.25, 0.5]
    features = {feature.name: feature for feature in probe.features}
    assert features["observation.state"].dtype == "float64"
    assert features["observation.state"].components == ("obs.qpos[0:2].0", "obs.qpos[0:2].1", "obs.grip.0")


def test_hive_partitions_are_columns_and_episodes(tmp_path: Path) -> None:
    for robot, number in (("arm b", 2), ("arm b", 10), ("arm/a", 1)):
        table = rows([4], seed=number).drop_columns(["episode", "task"])
        folder = f"robot={robot.replace('/', '%2F')}/run={number}"
        write(tmp_path / folder / "part.parquet", table)
    given = {**MAP, "episode": {"operator": "robot"}, "columns": {**MAP["columns"], "run": "run"}}
    episodes = good(tmp_path, map=given, episodes="run")
    assert {(episode.key, episode.operator) for episode in episodes} == {
        ("episode_000001", "arm/a"), ("episode_000002", "arm b"), ("episode_000010", "arm b"),
    }  # fmt: skip
    assert all(set(e.steps["run"].to_pylist()) == {int(e.key[-6:])} for e in episodes)
    assert detect(Source(str(tmp_path)))[1].proposal is not None


def test_a_clock_in_any_unit(tmp_path: Path) -> None:
    base = rows([5]).drop_columns(["time", "image"])
    nanos = np.int64(1_700_000_000_000_000_123) + np.arange(5) * 50_000_000
    for name, clock, unit in (
        ("ns", pa.array(nanos), "ns"),
        ("stamp", pa.array(nanos, pa.timestamp("ns", "UTC")), "ns"),
        ("ms", pa.array(np.arange(5) * 50), "ms"),
        ("s", pa.array(np.arange(5) / 20, pa.float32()), "s"),
    ):
        write(tmp_path / f"{name}.parquet", base.append_column("timestamp", clock))
        probe, _ = read(tmp_path / f"{name}.parquet")
        assert probe.proposal is not None
        assert probe.proposal["map"].get("clock_unit", "s") == unit
        _, episodes = read(tmp_path / f"{name}.parquet", **probe.proposal)
        (episode,) = episodes.values()
        assert isinstance(episode, SourceEpisode)
        assert episode.steps["timestamp"].to_numpy() == pytest.approx(np.arange(5) / 20, abs=1e-7)
        assert probe.fps == pytest.approx(20, rel=1e-3)


def test_rows_of_an_episode_that_lie_apart_are_one_bad_episode(tmp_path: Path, lake: Lake) -> None:
    table = rows([4, 4, 4])
    write(tmp_path / "a.parquet", pa.concat_tables([table.slice(0, 6), table.slice(8), table.slice(6, 2)]))
    receipt = bring(lake, tmp_path / "a.parquet", map=MAP, episodes="episode")
    ((bad,), stored) = receipt["quarantined"], receipt["stored"]["episodes"]
    assert (bad["key"], bad["code"], stored) == ("episode_000003", "scattered", 2)


def test_what_is_wrong_in_one_episode_spoils_that_one(tmp_path: Path) -> None:
    table = rows([3, 3, 3, 3, 3])
    states = [[0.0, 1.0, 2.0]] * 15
    states[4] = [0.0, 1.0]
    cells = table["image"].to_pylist()
    cells[7] = {"bytes": cells[7]["bytes"][:60], "path": None}
    cells[10] = None
    cells[12] = {"bytes": png(image(3, (16, 32))), "path": None}
    table = table.set_column(2, "state", pa.array(states, pa.list_(pa.float32())))
    table = table.set_column(6, "image", pa.array(cells, IMAGE))
    write(tmp_path / "a.parquet", table)
    _, episodes = read(tmp_path / "a.parquet", map=MAP, episodes="episode")
    wide = episodes["episode_000003"]
    assert isinstance(wide, Unreadable)
    assert "widths" in wide.reason
    for key, message in (("006", "step 1.*decod"), ("009", "step 1: an image is missing"), ("012", "step 0.*not")):
        with pytest.raises(SourceError, match=message):
            frames(episodes[f"episode_000{key}"])  # type: ignore[arg-type]
    assert len(frames(episodes["episode_000000"])) == 3  # type: ignore[arg-type]


def test_paths_of_images_lead_to_the_source_or_nowhere(tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "set" / "pictures").mkdir(parents=True)
    (tmp_path / "set" / "pictures" / "0.png").write_bytes(png(image(0, (16, 24))))
    (tmp_path / "secret.png").write_bytes(png(image(1, (16, 24))))
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    paths = [
        "pictures/0.png",
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "http://host/0.png",
        "gone.png",
    ]
    table = pa.table(
        {
            "episode": np.arange(6),
            "action": [[0.5]] * 6,
            "image": pa.array([{"bytes": None, "path": p} for p in paths], IMAGE),
        }
    )
    write(tmp_path / "set" / "a.parquet", table)
    given = {"columns": {"action": "action"}, "cameras": {"front": "image"}}
    receipt = bring(lake, tmp_path / "set", map=given, episodes="episode", fps=10)
    assert receipt["stored"]["episodes"] == 1
    assert [bad["code"] for bad in receipt["quarantined"]] == ["bad_path"] * 3 + ["missing_image"] * 2


def test_files_that_lie_are_noted_or_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.parquet", rows([3]))
    (tmp_path / "set" / "b.parquet").write_bytes((tmp_path / "set" / "a.parquet").read_bytes()[:-100])
    (tmp_path / "set" / "c.feather").write_bytes(b"FEA1" + bytes(50))
    (tmp_path / "set" / "_d.parquet").write_bytes(b"")
    probe, _ = read(tmp_path / "set", map=MAP, episodes="episode")
    assert [note.split(" ", 1)[0] for note in probe.notes if "cannot be read" in note] == ["b.parquet", "c.feather"]
    for name, message in (("b.parquet", "damaged|not readable"), ("c.feather", "Feather of version 1")):
        with pytest.raises(SourceError, match=message) as raised:
            Table().probe(Source(str(tmp_path / "set" / name)))
        assert "\n" not in str(raised.value)
    (tmp_path / "e.parquet").write_bytes(b"ffconcat version 1.0")
    with pytest.raises(SourceError, match="neither Parquet nor Arrow"):
        Table().probe(Source(str(tmp_path / "e.parquet")))
    twice = pa.table([pa.array([1.0]), pa.array([2.0])], names=["action", "action"])
    for suffix in (".parquet", ".arrow", ".arrows"):
        write(tmp_path / f"twice{suffix}", twice)
        with pytest.raises(SourceError, match="two columns called 'action'"):
            Table().probe(Source(str(tmp_path / f"twice{suffix}")))
    (tmp_path / "nothing").mkdir()
    assert Table().probe(Source(str(tmp_path / "nothing"))) is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_flipped_byte_is_never_more_than_an_error(tmp_path_factory, data) -> None:
    path = (
        tmp_path_factory.mktemp("flip")
        / f"a{data.draw(st.sampled_from(['.parquet', '.arrow', '.arrows', '.feather']))}"
    )
    write(path, rows([3, 3]))
    damaged = bytearray(path.read_bytes())
    for _ in range(3):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        _, episodes = read(path, map=MAP, episodes="episode")
        for episode in episodes.values():
            if isinstance(episode, SourceEpisode):
                frames(episode)
    except EngineError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"columns": {"action": "acton"}}, "names 'acton'"),
        ({"columns": {"action": "action[1:4]"}}, "leaves its 2 entries"),
        ({"cameras": {"front": "action"}}, "holds no images"),
        ({"columns": {"action": "action"}, "clock": "when"}, "names 'when'"),
    ],
)
def test_a_wrong_map_is_one_clear_line(tmp_path: Path, given, message) -> None:
    write(tmp_path / "a.parquet", rows([3]))
    with pytest.raises(EngineError, match=message):
        read(tmp_path / "a.parquet", map=given, episodes="episode")
    with pytest.raises(SourceError, match="no column 'run'"):
        read(tmp_path / "a.parquet", map=MAP, episodes="run")


def test_real_files_of_another_format_read_as_tables(shared_data: Path) -> None:
    path = shared_data / "g1_lerobot_v21" / "data"
    given = {"columns": {"observation.state": "observation.state", "action": "action"}, "clock": "timestamp"}
    episodes = good(path, map=given, episodes="episode_index")
    assert len(episodes) == 6
    for episode, file in zip(episodes, sorted(path.rglob("*.parquet")), strict=True):
        table = pq.read_table(file)
        assert episode.steps["action"].to_pylist() == table["action"].to_pylist()
        assert episode.steps["observation.state"].to_pylist() == table["observation.state"].to_pylist()


def test_from_an_object_store(tmp_path: Path, s3: str, lake: Lake) -> None:
    for number, suffix in enumerate((".parquet", ".arrow", ".arrows", ".feather")):
        write(tmp_path / "set" / f"{number}{suffix}", rows([4], seed=number))
    fs, path = filesystem(f"{s3}/set")
    fs.put(str(tmp_path / "set"), path, recursive=True)
    receipt = bring(lake, f"{s3}/set", map=MAP, episodes=".", fps=20)
    assert receipt["stored"] == {"episodes": 4, "steps": 16, "frames": {"front": 16}}
    here, there = good(tmp_path / "set", episodes="."), good(f"{s3}/set", episodes=".")
    for one, other in zip(here, there, strict=True):
        assert one.steps.equals(other.steps)
        np.testing.assert_array_equal(frames(one), frames(other))
