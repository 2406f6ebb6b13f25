from __future__ import annotations

from pathlib import Path

import pytest

from data_engine.errors import EngineError, RequestError
from storage import removals
from storage.lake import Lake
from storage.preferences import held_preferences, pin_preferences, pinned_preferences


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"), create=True)


def enter(lake: Lake, *names: str, collection: str = "c", transaction: str = "t") -> None:
    rows = [{"preference_id": name, "collection": collection,
             "items": [{"episode_id": f"ep_{name}"}, {"episode_id": "ep_0"}]} for name in names]  # fmt: skip
    lake.append_rows("preferences", rows, transaction=transaction)


def test_each_is_read_once_and_pinned_by_what_is_there(lake: Lake) -> None:
    enter(lake, "b", "a")
    enter(lake, "a", "d", collection="c", transaction="raced")
    enter(lake, "e", collection="other", transaction="o")
    assert held_preferences(lake, "c")["preference_id"].to_list() == ["a", "b", "d"]
    assert len(held_preferences(lake)) == 4
    ((name, pin),) = pin_preferences(lake, "c").items()
    assert name == "preferences c"
    assert pinned_preferences(lake, "c", pin)["preference_id"].to_pylist() == ["a", "b", "d"]
    enter(lake, "f", transaction="later")
    with pytest.raises(EngineError, match="was added to meanwhile"):
        pinned_preferences(lake, "c", pin)
    removals.record(lake, "removed", {"ep_f": "dataset"})
    assert pin_preferences(lake, "c") == {name: pin}
    assert pin_preferences(lake, None) == {}


def test_an_empty_collection_is_one_line(lake: Lake) -> None:
    with pytest.raises(RequestError, match="holds no preferences"):
        pin_preferences(lake, "c")
    enter(lake, "a")
    with pytest.raises(RequestError, match="there are: c"):
        pin_preferences(lake, "d")
