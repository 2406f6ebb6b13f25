from __future__ import annotations

import polars as pl

from storage import removals
from storage.lake import Lake


def test_what_is_removed_is_out_of_sight_and_comes_back(lake: Lake, filler) -> None:
    fill = filler(lake)
    fill.dataset()
    fill.shard(["a", "b"])
    a, b = lake.episodes()["episode_id"]
    assert removals.record(lake, "removed", {a: "arms"}, reason="asked to") == 1
    assert lake.episodes()["episode_id"].to_list() == [b]
    assert lake.episodes(removed=True)["episode_id"].to_list() == [a, b]
    assert removals.gone(lake).to_list() == [a] and removals.withheld(lake, {"a": a, "b": b}) == ["a"]
    rows = pl.DataFrame({"unit_id": [a, b, None], "value": [1, 2, 3]})
    assert removals.live(lake, rows)["value"].to_list() == [2, 3]

    fill.shard(["a"], revision=1, seed=1)  # a newer revision does not bring it back
    assert lake.episodes()["episode_id"].to_list() == [b]
    assert removals.record(lake, "taken_back", {a: "arms"}) == 1
    assert lake.episodes()["revision"].to_list() == [1, 0] and removals.withheld(lake, {"a": a}) == []
    assert removals.taken_back(lake) == removals.taken_back(lake, [a]) == 1 and removals.taken_back(lake, [b]) == 0


def test_what_is_so_already_is_not_entered_again(local_lake: Lake) -> None:
    assert removals.record(local_lake, "taken_back", {"ep_1": "arms"}) == 0 and local_lake.version("removals") is None
    for _ in range(2):
        removals.record(local_lake, "removed", {"ep_1": "arms", "ep_2": "arms"})
    assert len(local_lake.scan("removals").collect()) == 2
    assert removals.record(local_lake, "removed", {"ep_2": "arms", "ep_3": "arms"}) == 1
    for state in ("taken_back", "removed"):
        assert removals.record(local_lake, state, {"ep_1": "arms"}) == 1
    assert set(removals.gone(local_lake)) == {"ep_1", "ep_2", "ep_3"}


def test_a_mark_says_nothing_of_its_episode(local_lake: Lake) -> None:
    assert removals.mark("ep_1") != removals.mark("ep_2") and "ep_1" not in removals.mark("ep_1")
