"""Erased is erased: from the bytes of every file, wherever it was killed, and nobody else loses anything."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from data_engine.canonical import canonical_json
from data_engine.errors import RequestError
from data_engine.model import ANNOTATIONS, EMBEDDINGS, EPISODES, SCORES, episode_id
from data_engine.scoring import Fit
from data_engine.video import FrameReader, encode
from storage import erase as erasing
from storage import indices, removals
from storage.answers import list_answers, put_answer
from storage.check import check
from storage.erase import PLAN, erase
from storage.fingerprint import fingerprint, steps_digest
from storage.fits import describe
from storage.lake import Lake
from storage.ledger import done
from tests.traces import needles, traces


def rebuild(*_: Any) -> None:
    """An index made anew: here it is only dropped."""


def ids(*keys: str, dataset: str = "arms") -> dict[str, str]:
    return {episode_id(dataset, key): dataset for key in keys}


def contents(lake: Lake) -> dict[str, str]:
    """The digest of each live episode's steps."""
    return {row["episode_id"]: steps_digest(steps) for row, steps in lake.steps(lake.episodes())}


def fill(lake: Lake, filler, **shards: list[str]) -> None:
    made = filler(lake)
    made.dataset()
    for keys in shards.values():
        made.shard(keys)


def about(lake: Lake, episode: str, other: str) -> None:
    """Rows of every kind that speak of ``episode``, and ones of ``other`` that must stay."""
    for name, schema, row in (
        ("scores", SCORES, {"unit_kind": "episode", "metric": "m", "value": 1.0}),
        ("annotations", ANNOTATIONS, {"kind": "language", "label": "said"}),
        ("embeddings/space", EMBEDDINGS, {"vector": [1.0, 2.0], "encoder_version": "v"}),
    ):
        key = "unit_id" if name == "scores" else "episode_id"
        rows = [{**row, key: episode, "content_hash": "h"}, {**row, key: other, "content_hash": "h"}]
        if name == "annotations":
            rows[1] |= {"text": f"unlike {episode}", "reason": f"it follows {episode}"}
        lake.append(name, pa.Table.from_pylist(rows, schema=schema), transaction="t")
    pairs = ([other, episode], [other, other])
    lake.append_rows("preferences", [{"items": [{"episode_id": name} for name in names]} for names in pairs],
                     transaction="t")  # fmt: skip
    lake.append_rows("evaluations", [{"evaluation_id": "1", "rollout_episode_id": episode}, {"evaluation_id": "2"}],
                     transaction="t")  # fmt: skip
    chosen = {
        "selection_id": "sel",
        "name": "s",
        "rank": 0,
        "weight": 1.0,
        "inputs": canonical_json({"ids": [episode]}),
    }
    lake.append_rows(
        "selections",
        [{**chosen, "episode_id": episode}, {**chosen, "episode_id": other, "rank": 1},
         {**chosen, "episode_id": episode, "name": "left", "rank": None}],
        transaction="t",
    )  # fmt: skip
    lake.append_rows("runs", [{"run_id": "r", "recipe": canonical_json({"where": f"episode_id = '{episode}'"})}],
                     transaction="t")  # fmt: skip
    for key, shown in (("a" * 64, episode), ("b" * 64, other)):
        put_answer(lake, key, {"parts": [{"episode_id": shown, "content": "c"}], "reply": None})
    lake.write_pending("shard", pa.table({"episode_id": [episode]}))
    lake.mark_done("shard", {"empty": [other]})
    lake.write_pending("another", pa.table({"unit_id": [other]}))
    lake.mark_done("another", {"empty": []})
    lake.write_bytes("reports/of_it.html", f"<p>{episode}</p>".encode())
    lake.write_bytes("reports/of_another.html", f"<p>{other}</p>".encode())
    lake.put_fit(Fit("p", "1", {}, 0, ("h", "x"), arrays={"a": np.ones(3)}, meta={"m": 1}))
    lake.put_fit(Fit("p", "1", {}, 0, ("h2",), arrays={"a": np.ones(3)}))
    meta = {"encoder_version": "v"}
    indices.save(lake, "space/group", indices.build(np.eye(2, dtype=np.float32), [episode, other], meta=meta))


def test_rows_files_and_documents_go_and_the_rest_stays(local_lake: Lake, filler) -> None:
    lake = local_lake
    fill(lake, filler, one=["a", "bb", "ccc"], two=["d"], three=["e", "f"])
    a, b, _, d, *_ = (*ids("a"), *ids("bb"), *ids("ccc"), *ids("d"))
    about(lake, b, a)
    lake.rewrite("scores", lambda table: _hashed(table, lake), why="test")
    before, known = contents(lake), needles(lake, b) | needles(lake, d)
    assert set(traces(lake, known)) == set(known)  # the search finds what is there
    removals.record(lake, "removed", ids("bb", "d"))
    rebuilt = []
    report = erase(lake, lambda *given: rebuilt.append(given))
    assert report["erased"] == 2 and report["steps_files"] == 2 and report["left"] == []
    assert traces(lake, known) == {} and check(lake) == []
    assert contents(lake) == {name: value for name, value in before.items() if name not in (b, d)}
    assert lake.episodes(removed=True)["source_key"].to_list() == ["a", "ccc", "e", "f"]
    assert removals.withheld(lake, {"bb": b, "a": a}) == ["bb"]

    for name, column in (("scores", "unit_id"), ("annotations", "episode_id"), ("embeddings/space", "episode_id")):
        assert lake.scan(name).collect()[column].to_list() == [a]
    assert [[item["episode_id"] for item in items] for items in lake.scan("preferences").collect()["items"]] == [[a, a]]
    assert lake.scan("evaluations").collect()["evaluation_id"].to_list() == ["2"]
    chosen = lake.scan("selections").collect().sort("rank")
    assert chosen.select("rank", "episode_id", "reason").rows() == [(0, None, "erased"), (1, a, None)]
    assert json.loads(chosen["inputs"][0]) == {"ids": ["[erased]"]}
    assert done(lake, "shard") is None and done(lake, "another") is not None
    assert report["answers"] == 1 and list_answers(lake) == ["b" * 64]
    assert report["reports"] == ["reports/of_it.html"] and lake.size("reports/of_another.html")
    assert rebuilt == [("space", "v", [a])] and indices.list_indices(lake) == []
    assert not lake.exists("_erase") or lake.list("_erase") == []


def _hashed(table: pa.Table, lake: Lake) -> pa.Table:
    """``table`` with the content hashes of the episodes that its rows are of."""
    known = dict(lake.episodes(removed=True).select("episode_id", "content_hash").iter_rows())
    found = pa.array([known[name] for name in table.column("unit_id").to_pylist()], pa.string())
    return table.set_column(table.schema.get_field_index("content_hash"), "content_hash", found)


def test_a_fit_that_saw_it_is_flagged_and_learns_anew(local_lake: Lake, filler) -> None:
    fill(local_lake, filler, one=["a", "b"])
    rows = local_lake.episodes()
    saw = Fit("p", "1", {}, 0, tuple(sorted(rows["content_hash"])), arrays={"a": np.ones(3)}, meta={"m": 1})
    other = Fit("p", "1", {}, 0, (rows["content_hash"][1],), arrays={"a": np.ones(3)})
    for fit in (saw, other):
        local_lake.put_fit(fit)
    removals.record(local_lake, "removed", ids("a"))
    assert erase(local_lake, rebuild)["fits"] == [f"p/{saw.id}"]
    with pytest.raises(RequestError, match="saw 1 recordings that were erased"):
        local_lake.get_fit("p", saw.id)
    facts = describe(local_lake, "p", saw.id)
    assert facts["flagged"]["erased"] == 1 and facts["meta"] == {} and facts["arrays"] is None
    assert list(local_lake.list(f"fits/p/{saw.id}")) == [f"fits/p/{saw.id}/fit.json"]
    assert local_lake.get_fit("p", other.id).id == other.id and check(local_lake) == []
    local_lake.put_fit(saw)  # it was taken back in and fitted again
    assert local_lake.get_fit("p", saw.id).meta == {"m": 1}


def test_a_second_name_of_the_same_recording_keeps_what_was_learned(local_lake: Lake, filler) -> None:
    fill(local_lake, filler, one=["a"])
    filler(local_lake).dataset("copy")
    filler(local_lake).shard(["a"], dataset="copy")  # the filler hashes keys: the same content
    fit = Fit("p", "1", {}, 0, tuple(set(local_lake.episodes()["content_hash"])), arrays={"a": np.ones(3)})
    local_lake.put_fit(fit)
    removals.record(local_lake, "removed", ids("a"))
    assert erase(local_lake, rebuild)["fits"] == [] and local_lake.get_fit("p", fit.id).id == fit.id


# videos


def video(lake: Lake, folder: Path, frames: int, spans: list[tuple[int, int]]) -> list[dict]:
    """One file of ``frames`` different frames in the lake, and an entry of ``videos`` for each span of it."""
    pictures = np.random.default_rng(frames).integers(0, 255, (frames, 64, 64, 3), np.uint8)
    info = encode(iter(pictures), folder / "frames.mp4", 10.0).info
    facts = {"camera": "front", "blob": lake.put_video(folder / "frames.mp4"), "codec": info.codec, "width": 64,
             "height": 64, "fps": 10.0}  # fmt: skip
    return [{**facts, "start_s": a / 10, "end_s": b / 10, "frames": b - a} for a, b in spans]


def show(lake: Lake, filler, videos: dict[str, dict]) -> dict[str, str]:
    """Episodes that show ``videos``, by source key; the digest of each one's frames."""
    made = filler(lake)
    made.dataset()
    for key, entry in videos.items():
        made.shard([key], videos=[entry])
    return digests(lake)


def digests(lake: Lake) -> dict[str, str]:
    found = {}
    for row in lake.episodes().iter_rows(named=True):
        for entry in row["videos"]:
            with FrameReader(lake.local(entry["blob"])) as reader:
                assert reader.count(entry["start_s"], entry["end_s"]) == entry["frames"]
                found[row["source_key"]] = reader.digest(entry["start_s"], entry["end_s"])
    return found


def test_a_shared_video_is_recut_and_the_frames_of_others_are_the_same(lake: Lake, filler, tmp_path: Path) -> None:
    first, second, third = video(lake, tmp_path, 24, [(0, 8), (8, 14), (14, 24)])
    alone = video(lake, tmp_path, 12, [(0, 12)])[0]
    before = show(lake, filler, {"a": first, "bb": second, "ccc": third, "d": alone})
    known = needles(lake, *ids("bb")) | needles(lake, *ids("d"))
    assert set(traces(lake, known)) == set(known)
    removals.record(lake, "removed", ids("bb", "d"))
    report = erase(lake, rebuild)
    assert report["videos"] == {"deleted": 1, "recut": 1, "encoded": 0} and report["settings"] is None
    assert digests(lake) == {key: before[key] for key in ("a", "ccc")}
    assert traces(lake, known) == {} and check(lake) == [] and lake.size(first["blob"]) is None


def test_a_span_between_keyframes_is_encoded_again_and_said(local_lake: Lake, filler, tmp_path: Path) -> None:
    first, second, third = video(local_lake, tmp_path, 24, [(0, 8), (8, 15), (15, 24)])
    before = show(local_lake, filler, {"a": first, "bb": second, "ccc": third})
    known = needles(local_lake, *ids("bb"))
    removals.record(local_lake, "removed", ids("bb"))
    report = erase(local_lake, rebuild)
    assert report["videos"]["encoded"] == 1 and report["settings"]["codec"] == "libsvtav1"
    assert digests(local_lake)["a"] == before["a"] and digests(local_lake)["ccc"] != before["ccc"]
    assert traces(local_lake, known) == {} and check(local_lake) == []


def test_a_file_that_grew_gives_up_the_frames_in_both_of_its_versions(local_lake: Lake, filler, tmp_path: Path) -> None:
    old = video(local_lake, tmp_path, 16, [(0, 8), (8, 16)])
    pictures = np.random.default_rng(16).integers(0, 255, (16, 64, 64, 3), np.uint8)
    more = np.random.default_rng(1).integers(0, 255, (8, 64, 64, 3), np.uint8)
    encode(iter([*pictures, *more]), tmp_path / "grown.mp4", 10.0)
    grown = {**old[0], "blob": local_lake.put_video(tmp_path / "grown.mp4"), "start_s": 1.6, "end_s": 2.4}
    before = show(local_lake, filler, {"a": old[0], "bb": old[1], "ccc": grown})
    known = needles(local_lake, *ids("bb"))
    assert any(len(paths) > 1 for paths in traces(local_lake, known).values())
    removals.record(local_lake, "removed", ids("bb"))
    assert erase(local_lake, rebuild)["videos"]["recut"] == 2
    assert digests(local_lake) == {key: before[key] for key in ("a", "ccc")}
    assert traces(local_lake, known) == {} and check(local_lake) == []


# cut off, and beside others


class Killed(BaseException):
    """The process ends here."""


class Dying(Lake):
    """A lake whose process dies right before its ``last``-th change."""

    last, count = 0, 0

    def _die(self, name: str, *given: Any, **named: Any) -> Any:
        self.count += 1
        if self.count == self.last:
            raise Killed
        return getattr(Lake, name)(self, *given, **named)

    def write_bytes(self, *given: Any) -> None:
        self._die("write_bytes", *given)

    def publish(self, *given: Any) -> None:
        self._die("publish", *given)

    def remove(self, *given: Any) -> None:
        self._die("remove", *given)

    def swap(self, *given: Any, **named: Any) -> bool:
        return bool(self._die("swap", *given, **named))

    def commit(self, *given: Any, **named: Any) -> int:
        return int(self._die("commit", *given, **named))


def test_killed_between_any_two_changes_and_run_again_it_is_erased(filler, tmp_path: Path) -> None:
    start = Lake.open(str(tmp_path / "start"), create=True)
    first, second, third = video(start, tmp_path, 12, [(0, 4), (4, 8), (8, 12)])
    show(start, filler, {"a": first, "bb": second, "ccc": third})
    filler(start).shard(["d", "e"])
    a, b = (*ids("a"), *ids("bb"))
    about(start, b, a)
    known = needles(start, b)
    removals.record(start, "removed", ids("bb", "d"))

    def copied(name: str) -> Dying:
        shutil.copytree(tmp_path / "start", tmp_path / name)
        return Dying(str(tmp_path / name))

    whole = copied("whole")
    erase(whole, rebuild)
    expected, kept = fingerprint(whole), contents(whole)
    assert whole.count > 40
    for last in [*range(3, whole.count, 7), whole.count]:
        lake = copied("cut")
        lake.last = last
        with pytest.raises(Killed):
            erase(lake, rebuild)
        again = Lake.open(lake.uri)
        assert contents(again) == kept  # whoever reads meanwhile is not disturbed
        erase(again, rebuild)
        assert fingerprint(again) == expected and check(again) == [] and traces(again, known) == {}, last
        assert erasing.pending(again) == []
        shutil.rmtree(lake.uri)


def test_an_erase_that_was_cut_off_is_a_problem(local_lake: Lake, filler) -> None:
    fill(local_lake, filler, one=["a", "b"])
    removals.record(local_lake, "removed", ids("a"))
    dying = Dying(local_lake.uri)
    dying.last = 4
    with pytest.raises(Killed):
        erase(dying, rebuild)
    assert erasing.pending(local_lake) == list(ids("a"))
    assert PLAN in [problem["path"] for problem in check(local_lake)]
    erase(local_lake, rebuild)
    assert check(local_lake) == []


def test_who_writes_meanwhile_loses_nothing(local_lake: Lake, filler) -> None:
    fill(local_lake, filler, **{f"s{number}": [f"k{number}", f"l{number}"] for number in range(6)})
    filler(local_lake).dataset("others")
    removals.record(local_lake, "removed", ids(*(f"k{number}" for number in range(6))))
    started, errors = threading.Barrier(2), []

    def write() -> None:
        try:
            made = filler(Lake(local_lake.uri))
            started.wait()
            for number in range(12):
                made.shard([f"x{number}", f"y{number}"], dataset="others")
        except BaseException as error:
            errors.append(error)
            raise

    writer = threading.Thread(target=write)
    writer.start()
    started.wait()
    report = erase(local_lake, rebuild)
    writer.join()
    assert not errors and report["left"] == [] and check(local_lake) == []
    counts = dict(local_lake.episodes().group_by("dataset").len().iter_rows())
    assert counts == {"arms": 6, "others": 24}


def test_what_a_killed_ingest_left_of_it_goes_too(local_lake: Lake, filler) -> None:
    fill(local_lake, filler, one=["a", "b"])
    made = filler(local_lake)
    schema = local_lake.schema("steps/arms")
    known = needles(local_lake, *ids("a"))
    orphan = local_lake.write_file("steps/arms", "orphan", made.steps("a", 5), schema)
    other = local_lake.write_file("steps/arms", "other", made.steps("z", 5), schema)
    unnamed = local_lake.write_file("steps/arms", "unnamed", made.steps("a", 5), schema)
    local_lake.commit("steps/arms", [unnamed], transaction="unnamed")
    rows = local_lake.scan("episodes").filter(pl.col("source_key") == "a").collect().to_arrow()
    waiting = local_lake.write_file("episodes", "waiting", rows.cast(EPISODES), EPISODES)
    local_lake.mark_done("lost", {"file": orphan.as_dict()})
    removals.record(local_lake, "removed", ids("a"))
    assert erase(local_lake, rebuild)["left"] == []
    assert local_lake.sizes([orphan.path, unnamed.path, waiting.path]) == (None, None, None)
    assert local_lake.size(other.path) and done(local_lake, "lost") is None
    assert traces(local_lake, known) == {} and check(local_lake) == []


def test_where_nothing_was_removed_nothing_is_erased(local_lake: Lake, filler) -> None:
    fill(local_lake, filler, one=["a"])
    before = local_lake.list()
    assert erase(local_lake, rebuild) == {"erased": 0, "left": []} and local_lake.list() == before


def test_a_later_erase_goes_on_from_an_earlier_one(local_lake: Lake, filler) -> None:
    fill(local_lake, filler, one=["a", "bb", "ccc", "dddd"])
    for key in ("bb", "a", "dddd"):
        before = contents(local_lake)
        removals.record(local_lake, "removed", ids(key))
        assert erase(local_lake, rebuild)["erased"] == 1
        del before[next(iter(ids(key)))]
        assert contents(local_lake) == before and check(local_lake) == []
