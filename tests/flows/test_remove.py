"""Removing and erasing through the flows: what every reader sees, what an ingest brings back, and what is left."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError
from data_engine.recipe import MixtureRecipe, ScoreRecipe, SelectRecipe, SourceRecipe, SpaceRecipe, render
from data_engine.video import FrameReader
from flows.curate import curate
from flows.export import export
from flows.index import embed, index, search
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.query import query
from flows.remove import erase, remove
from flows.score import score
from flows.select import select
from storage import indices
from storage.check import check, fingerprint
from storage.fits import describe
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.recordings import write_recipe, write_robomimic
from tests.traces import needles, traces

LENGTHS = [10, 8, 12, 6]
SECRET = "fetch the letter of Ms Ånderson"


def film(root: Path, lengths: list[int] = LENGTHS) -> Path:
    """A LeRobot v3 set: episodes in one video and one data file, the second by an operator of its own."""
    operators = ["ann", "zebediah", *["ann"] * (len(lengths) - 2)]
    tasks = [["push"], [SECRET], *[["push"]] * (len(lengths) - 2)]
    write_v3(root, lengths, video=True, extra={"operator": operators, "tasks": tasks})
    return root


def source(path: Path, name: str) -> SourceRecipe:
    return SourceRecipe(name=name, uri=str(path))


def facts(lake: Lake) -> list[tuple]:
    return lake.episodes().select("episode_id", "content_hash", "revision").rows()


def digests(lake: Lake) -> dict[str, str]:
    found = {}
    for row in lake.episodes().iter_rows(named=True):
        for video in row["videos"]:
            with FrameReader(lake.local(video["blob"])) as reader:
                found[row["source_key"]] = reader.digest(video["start_s"], video["end_s"])
    return found


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``reach.hdf5`` curated into ``lake``, exported to ``out``; and a film of its own operator."""
    folder = tmp_path_factory.mktemp("curated")
    recipe = write_recipe(folder, write_robomimic(folder / "reach.hdf5"))
    curate(str(folder / "lake"), render(str(recipe)), progress=silent())
    film(folder / "film")
    return folder


@pytest.fixture
def whole(curated: Path, tmp_path: Path) -> Lake:
    """A copy of the curated lake that a test may change."""
    shutil.copytree(curated / "lake", tmp_path / "lake")
    return Lake.open(str(tmp_path / "lake"))


def test_no_reader_sees_what_was_removed(filled: Lake) -> None:
    episodes = filled.episodes(dataset="reach")
    first, second = episodes["episode_id"][0], episodes["episode_id"][3]
    near = search(filled, "trajectory", second, k=30)
    assert first in {row["episode_id"] for row in near}
    assert remove(filled, episodes=[first])["removed"] == 1
    assert first not in {row["episode_id"] for row in search(filled, "trajectory", second, k=30)}
    assert len(query(filled, "dataset = 'reach'")[0]) == len(episodes) - 1
    for table, column in (("scores", "unit_id"), ("episodes", "episode_id")):
        assert first not in set(query(filled, table=table)[0][column])
    assert len(query(filled, table="removals")[0]) == 1
    with pytest.raises(RequestError, match="no episode"):
        search(filled, "trajectory", first)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"operator": "lost"}, 8),
        ({"dataset": "hand", "operator": "lost"}, 3),
        ({"where": "success AND dataset = 'reach'"}, None),
        ({"dataset": "reach"}, 24),
    ],
)
def test_what_meets_every_condition_is_removed(read_only: Lake, given: dict, count: int | None) -> None:
    rows = read_only.episodes()
    if "operator" in given:
        rows = rows.filter(pl.col("operator") == given["operator"])
    wanted = rows.filter(pl.col("dataset") == given["dataset"]) if "dataset" in given else rows
    if "where" in given:
        wanted = rows.filter(pl.col("success") & (pl.col("dataset") == "reach"))
    answer = remove(read_only, **given, dry_run=True)
    assert answer["would_remove"] == len(wanted) == len(answer["items"]) and answer["removed"] == 0
    assert {row["episode_id"] for row in answer["items"]} == set(wanted["episode_id"])
    assert read_only.version("removals") is None
    if count and "dataset" in given:
        assert len(wanted) == count


def test_removing_again_is_quiet_and_nothing_is_an_error(filled: Lake) -> None:
    name = filled.episodes()["episode_id"][0]
    assert [remove(filled, episodes=[name])["already"] for _ in range(3)] == [0, 1, 1]
    assert len(filled.scan("removals").collect()) == 1
    for given, message in (
        ({}, "nothing is said"),
        ({"episodes": ["ep_none"]}, "no episode 'ep_none'"),
        ({"operator": "nobody"}, "no episode is to be removed"),
        ({"where": "n_steps < 0"}, "no episode is to be removed"),
    ):
        with pytest.raises(RequestError, match=message) as caught:
            remove(filled, **given)
        assert caught.value.exit_code == 2
    erase(filled)
    assert remove(filled, episodes=[name])["already"] == 1


def test_the_answer_names_what_still_holds_it(whole: Lake, curated: Path) -> None:
    answer = remove(whole, dataset="reach", dry_run=True)
    assert [row["name"] for row in answer["mixtures"]] == ["reach"]
    (path,) = [path for path in whole.list("mixtures") if path.endswith("mixture.json")]
    assert answer["mixtures"][0]["episodes"] == len(mixtures.open(whole.uri_of(path).rpartition("/")[0]))
    assert {row["name"] for row in answer["selections"]} == {"towards", "anyone"}
    assert [row["uri"] for row in answer["exports"]] == [str(curated / "out")]


def test_copies_and_what_was_derived_are_named_and_stay(lake: Lake, recording: Path, common: dict) -> None:
    for name in ("one", "two"):
        ingest(lake, source(recording, name), **common)
    one = lake.episodes(dataset="one")["episode_id"][0]
    twin = lake.episodes(dataset="two").filter(pl.col("source_key") == "demo_0")["episode_id"][0]
    answer = remove(lake, episodes=[one])
    assert answer["copies"] == [twin] and twin in set(lake.episodes()["episode_id"])


# coming back


def test_an_ingest_brings_nothing_back_unasked(lake: Lake, tmp_path: Path, common: dict) -> None:
    path = write_robomimic(tmp_path / "reach.hdf5", episodes=9)
    ingest(lake, source(path, "reach"), **common)
    before, taken = facts(lake), lake.episodes().filter(pl.col("operator") == "lost")["episode_id"].to_list()
    remove(lake, operator="lost")
    kept = facts(lake)
    for _ in range(2):
        receipt = ingest(lake, source(path, "reach"), **common)
        assert (receipt["in"]["episodes"], receipt["unchanged"], receipt["removed"]) == (9, 6, 3)
        assert receipt["stored"]["episodes"] == 0 and facts(lake) == kept
    path.touch()
    write_robomimic(path, episodes=12)  # it grew: what is new comes in
    receipt = ingest(lake, source(path, "reach"), **common)
    assert (receipt["stored"]["episodes"], receipt["unchanged"], receipt["removed"]) == (3, 6, 3)
    assert not set(taken) & set(lake.episodes()["episode_id"]) and check(lake) == []
    assert "3 episodes stay out: they were removed from the lake" in receipt["notes"]

    receipt = ingest(lake, source(path, "reach"), take_back=True, **common)
    assert (receipt["stored"]["episodes"], receipt["unchanged"], receipt["removed"]) == (0, 12, 0)
    assert set(before) < set(facts(lake)) and check(lake) == []


def test_what_was_erased_comes_back_only_on_purpose_and_whole(lake: Lake, tmp_path: Path, common: dict) -> None:
    path = write_robomimic(tmp_path / "reach.hdf5", episodes=9)

    def measured() -> None:
        episodes = lake.episodes()
        score(lake, ScoreRecipe(scorer="integrity"), episodes, **common)
        embed(lake, SpaceRecipe(), episodes, **common)
        index(lake, "trajectory", episodes)
        select(lake, SelectRecipe(name="all", method="filter"), episodes, progress=silent(), run_id="run_test")

    recipe = MixtureRecipe(entries=[{"selection": "all", "weight": 1.0}])
    ingest(lake, source(path, "reach"), **common)
    measured()
    frozen = mix(lake, recipe, run_id="run_test")
    before = facts(lake)
    remove(lake, dataset="reach")
    assert erase(lake)["erased"] == 9 and len(lake.episodes()) == 0
    receipt = ingest(lake, source(path, "reach"), **common)
    assert (receipt["stored"]["episodes"], receipt["removed"]) == (0, 9) and check(lake) == []
    with pytest.raises(RequestError, match="of selection 'all' was removed since it was chosen"):
        mix(lake, recipe, run_id="run_test")

    receipt = ingest(lake, source(path, "reach"), take_back=True, **common)
    assert receipt["stored"]["episodes"] == 9 and facts(lake) == before
    measured()
    again = mix(lake, recipe, run_id="run_test")
    assert again["mixture_id"] == frozen["mixture_id"] and len(mixtures.open(again["uri"])) == 9
    assert len(query(lake, "integrity IS NOT NULL")[0]) == 9 and check(lake) == []
    assert lake.scan("mixtures").collect().sort("created_at")["status"].to_list() == ["broken", "frozen"]


def test_a_source_that_shows_it_again_comes_in_without_its_frames(lake: Lake, tmp_path: Path, common: dict) -> None:
    ingest(lake, source(film(tmp_path / "film"), "film"), **common)
    second = lake.episodes().filter(pl.col("operator") == "zebediah")["episode_id"][0]
    known, before = needles(lake, second), digests(lake)
    remove(lake, operator="zebediah")
    erase(lake)
    shutil.rmtree(tmp_path / "film")
    receipt = ingest(lake, source(film(tmp_path / "film", [*LENGTHS, 8]), "film"), **common)
    assert (receipt["stored"]["episodes"], receipt["unchanged"], receipt["removed"]) == (1, 3, 1)
    assert traces(lake, known) == {} and check(lake) == []
    after = digests(lake)
    assert {key: after[key] for key in after if key in before} == {k: v for k, v in before.items() if k in after}
    assert "episode_000004" in after and "episode_000001" not in after


# erasing


def test_a_takedown_leaves_nothing_and_breaks_only_what_held_it(whole: Lake, curated: Path, common: dict) -> None:
    ingest(whole, source(curated / "film", "film"), **common)
    films = whole.episodes(dataset="film")
    select(whole, SelectRecipe(name="films", method="filter", where="operator = 'ann'"), films, progress=silent(),
           run_id="run_test")  # fmt: skip
    kept = mix(whole, MixtureRecipe(name="kept", entries=[{"selection": "films", "weight": 1.0}]), run_id="run_test")
    second = films.filter(pl.col("operator") == "zebediah")["episode_id"][0]
    lost = whole.episodes().filter(pl.col("operator") == "lost")["episode_id"].to_list()
    known = needles(whole, second) | needles(whole, lost[0]) | needles(whole, lost[-1])
    known |= {"operator": b"zebediah", "sentence": SECRET.encode(), "escaped": html.escape(SECRET).encode()}
    known |= {"key": b"episode_000001", "key of another": b"demo_11", "where": b"operator = 'lost'"}
    whole.append_rows("runs", [{"run_id": "r", "recipe": json.dumps({"where": "operator = 'lost'"})}], transaction="r")
    assert set(known) - set(traces(whole, known)) <= {"escaped"}
    before, was = digests(whole), mixtures.open(kept["uri"])
    samples = [was.steps(i) for i in range(len(was))]

    remove(whole, operator="zebediah", reason="zebediah withdrew consent")
    remove(whole, operator="lost")
    report = erase(whole)
    assert report["erased"] == 9 and report["left"] == [] and check(whole) == []
    assert traces(whole, known) == {}
    assert digests(whole) == {key: value for key, value in before.items() if key != "episode_000001"}
    assert [row["uri"] for row in report["exports"]] == [str(curated / "out")]

    (broken,) = report["mixtures"]
    with pytest.raises(RequestError, match=r"mixture 'reach' is broken: \d+ of its \d+ rows were erased on "):
        mixtures.open(whole.uri_of(f"mixtures/{broken}"))
    states = dict(whole.scan("mixtures").select("name", "status").collect().iter_rows())
    assert states == {"reach": "broken", "kept": "frozen"}
    assert report["reports"] and whole.list("reports") == []
    now = mixtures.open(kept["uri"])
    assert now.id == was.id and now.files != was.files
    assert all(now.steps(i).equals(table) for i, table in enumerate(samples))
    assert export(kept["uri"], "lerobot_v3", str(Path(whole.uri).parent / "again"), verify=True)["verified"]

    assert {name.partition("/")[0] for name in report["fits"]} >= {"action_divergence", "trajectory"}
    producer, fit = report["fits"][0].split("/")
    assert describe(whole, producer, fit)["flagged"]["erased"] == 8
    built = [indices.load(whole, space, version) for space, version in indices.list_indices(whole)]
    assert built and not any(set(lost) & set(made.ids) for made in built) and len(built[0].ids) == 16
    near = search(whole, "trajectory", whole.episodes(dataset="reach")["episode_id"][0])
    assert len(near) == 10


def test_an_erase_on_an_object_store(s3: str, tmp_path: Path, common: dict) -> None:
    lake = Lake.open(f"{s3}/lake", create=True)
    ingest(lake, source(film(tmp_path / "film"), "film"), **common)
    rows = lake.episodes()
    select(lake, SelectRecipe(name="all", method="filter"), rows, progress=silent(), run_id="run_test")
    frozen = mix(lake, MixtureRecipe(entries=[{"selection": "all", "weight": 1.0}]), run_id="run_test")
    second = rows.filter(pl.col("operator") == "zebediah")["episode_id"][0]
    known, before = needles(lake, second) | {"operator": b"zebediah", "sentence": SECRET.encode()}, digests(lake)
    assert remove(lake, operator="zebediah")["mixtures"][0]["mixture_id"] == frozen["mixture_id"]
    report = erase(lake)
    assert report["left"] == [] and report["mixtures"] == [frozen["mixture_id"]]
    assert traces(lake, known) == {} and check(lake) == []
    assert digests(lake) == {key: value for key, value in before.items() if key != "episode_000001"}
    held = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any(needle in data for needle in known.values() for data in held)


def test_real_demonstrations(shared_data: Path, lake: Lake, common: dict) -> None:
    path = next(path for path in sorted(shared_data.glob("*g1*lerobot*")) if path.is_dir())
    ingest(lake, source(path, "g1"), **common)
    name = lake.episodes()["episode_id"][1]
    known = needles(lake, name)
    assert set(traces(lake, known)) == set(known)
    kept = {key: value for key, value in digests(lake).items() if key != lake.episodes()["source_key"][1]}
    remove(lake, episodes=[name])
    report = erase(lake)
    assert report["videos"]["encoded"] == 0 and traces(lake, known) == {} and check(lake) == []
    assert digests(lake) == kept
    before = fingerprint(lake)
    assert ingest(lake, source(path, "g1"), **common)["removed"] == 1 and fingerprint(lake) == before


def test_a_video_that_is_only_referred_to_is_named_and_left(lake: Lake, tmp_path: Path, common: dict) -> None:
    root = film(tmp_path / "film")
    ingest(lake, SourceRecipe(name="film", uri=str(root), by_reference=True), **common)
    (path,) = root.rglob("*.mp4")
    before, data = digests(lake), path.read_bytes()
    remove(lake, operator="zebediah")
    report = erase(lake)
    assert report["elsewhere"] == [str(path)] and path.read_bytes() == data and check(lake) == []
    assert digests(lake) == {key: value for key, value in before.items() if key != "episode_000001"}
    remove(lake, dataset="film")
    assert erase(lake)["videos"]["deleted"] == 1
    assert path.read_bytes() == data and lake.list("references") == []
