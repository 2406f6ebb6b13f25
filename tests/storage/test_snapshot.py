from __future__ import annotations

import threading

from storage.lake import Lake
from storage.snapshot import Snapshot


def selection(name: str) -> dict:
    return {"selection_id": name, "name": name, "rank": 0, "episode_id": "ep_1"}


def test_a_snapshot_stays_as_it_was_and_the_next_shares_what_has_not_changed(lake_uri):
    lake = Lake.open(lake_uri, create=True)
    lake.append_rows("selections", [selection("a")], transaction="a")
    lake.append_rows("runs", [{"run_id": "r"}], transaction="r")
    first = Snapshot.take(lake)
    lake.append_rows("selections", [selection("b")], transaction="b")
    second = Snapshot.take(lake, first)
    assert first.scan("selections").collect()["name"].to_list() == ["a"]
    assert sorted(second.scan("selections").collect()["name"]) == ["a", "b"]
    assert (first.version("selections"), second.version("selections")) == (1, 2)
    assert second._frames["runs"] is first._frames["runs"]
    assert Snapshot.take(lake, second) is second
    assert second.count("selections") == 2
    assert len(second.scan("scores").collect()) == 0


def test_what_is_remembered_is_made_once_and_lasts_while_the_evidence_does(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    first = Snapshot.take(lake)
    made = []

    def make() -> int:
        made.append(1)
        return len(made)

    threads = [threading.Thread(target=first.remembered, args=("key", make, ("scores",))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    lake.append_rows("runs", [{"run_id": "r"}], transaction="r")
    second = Snapshot.take(lake, first)
    assert second.remembered("key", make, ("scores",)) == 1
    lake.append_rows("scores", [{"unit_id": "ep_1", "value": 1.0}], transaction="s")
    assert Snapshot.take(lake, second).remembered("key", make, ("scores",)) == 2
    assert "step_values" not in Snapshot.take(lake).scan("scores").collect_schema()


def test_rows_of_a_value_are_all_of_them_and_no_others(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    names = ["b", "a", None, "b", "é", "aa", "b", ""]
    rows = [{"unit_id": name, "value": float(at)} for at, name in enumerate(names)]
    lake.append_rows("scores", rows, transaction="s")
    held = Snapshot.take(lake)
    for name in ("a", "b", "é", "aa", "", "c", "0", "zz"):
        found = held.rows_of("scores", "unit_id", name)["value"].sort().to_list()
        assert found == [float(at) for at, each in enumerate(names) if each == name], name
    assert len(held.rows_of("annotations", "episode_id", "a")) == 0


def test_a_snapshot_that_grew_is_the_lake_in_every_answer(tmp_path):
    """Episodes, revisions and scores that come in bit by bit: as if all had been read at once."""
    lake = Lake.open(str(tmp_path / "lake"), create=True)

    def episode(name: str, revision: int = 0, **more: object) -> dict:
        return {"episode_id": name, "dataset": f"set{len(name) % 2}", "source_key": name, "revision": revision,
                "content_hash": f"{name}-{revision}", "ingested_at": None, **more}  # fmt: skip

    def score(name: str, value: float | None, content: str, start: int = 0) -> dict:
        return {"unit_kind": "episode", "unit_id": name, "content_hash": content, "scorer": "length", "metric": "m",
                "version": "1", "config_hash": "c", "fit_id": "f", "value": value, "start": start, "stop": 9,
                "status": "ok"}  # fmt: skip

    commits = [
        ("episodes", [episode("b"), episode("dd"), episode("f")]),
        ("scores", [score("b", 1.0, "b-0"), score("f", None, "f-0")]),
        ("scores", [score("early", 7.0, "early-0")]),  # of an episode that is not told of yet
        ("episodes", [episode("early"), episode("a"), episode("g"), episode("b", 1)]),
        ("removals", [{"mark": "x", "episode_id": "dd", "state": "removed", "revision": 0}]),
        ("scores", [score("b", 2.0, "b-1"), score("a", 3.0, "a-0"), score("a", 4.0, "a-0", start=3)]),
        ("episodes", [episode("c"), episode("dd", 1)]),
    ]
    held = Snapshot.take(lake)
    for number, (table, rows) in enumerate(commits):
        held.episodes(), held.slots()
        lake.append_rows(table, rows, transaction=str(number))
        held = Snapshot.take(lake, held)
        fresh = Snapshot.take(lake)
        assert held.episodes().equals(lake.episodes())
        names = held.episodes()["episode_id"].to_list()
        for name, slot, other in zip(names, held.slots(), fresh.slots(), strict=True):
            assert held.pivot.rows_at(slot) == fresh.pivot.rows_at(other)
            assert held.rows_of("episodes", "episode_id", name).equals(fresh.rows_of("episodes", "episode_id", name))
    said = {name: sorted(str(row["value"]) for row in held.pivot.rows_at(slot))
            for name, slot in zip(names, held.slots(), strict=True)}  # fmt: skip
    assert said == {"a": ["3.0", "4.0"], "b": ["2.0"], "c": [], "early": ["7.0"], "f": ["None"], "g": []}
