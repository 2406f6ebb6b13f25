from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from data_engine.errors import RequestError
from storage.lake import Lake
from storage.schedules import add, change, dues, find, run_name, schedules

RECIPE = {"name": "nightly", "n": 1}


@pytest.fixture
def lake(tmp_path):
    return Lake.open(str(tmp_path / "lake"), create=True)


def test_a_schedule_is_kept_paused_resumed_and_removed(lake_uri):
    lake = Lake.open(lake_uri, create=True)
    made = add(lake, "nightly", RECIPE, by="anna", cron="0 3 * * *")
    assert add(lake, "nightly", RECIPE, by="bert", cron="0 3 * * *") == made
    with pytest.raises(RequestError, match="another schedule") as caught:
        add(lake, "nightly", RECIPE, by="anna", every_s=60)
    assert caught.value.code == "exists"
    assert change(lake, "nightly", "paused").state == "paused"
    again = change(lake, "nightly", "active")
    assert again.since > made.since  # what passed meanwhile is not due
    assert find(lake, "nightly").recipe == RECIPE
    change(lake, "nightly", "removed")
    assert schedules(lake) == []
    with pytest.raises(RequestError, match="no schedule 'nightly'"):
        change(lake, "nightly", now=True)
    assert add(lake, "nightly", RECIPE, by="anna", every_s=60).revision == 4


@pytest.mark.parametrize(
    "wrong",
    [{}, {"cron": "* * * * *", "every_s": 5}, {"every_s": 0.5}, {"every_s": float("nan")}, {"cron": "61 * * * *"},
     {"cron": "@daily"}, {"cron": "* * * * * *"}, {"cron": "0 0 31 2 *"}, {"every_s": 60, "timezone": "Mars/Base"},
     {"every_s": 60, "timezone": "../../etc/passwd"}],
)  # fmt: skip
def test_a_time_that_is_none_is_refused_in_a_line(lake, wrong):
    with pytest.raises(RequestError) as caught:
        add(lake, "x", RECIPE, by="anna", **wrong)
    assert caught.value.code == "bad_schedule"
    assert "\n" not in str(caught.value)


def test_times_are_told_from_its_start_and_in_its_zone(lake):
    made = add(lake, "often", RECIPE, by="anna", every_s=90)
    times = list(islice(dues(made, made.since + timedelta(seconds=1000)), 3))
    assert [(each - made.since).total_seconds() for each in times] == [1080, 1170, 1260]
    assert next(dues(made, datetime(2000, 1, 1, tzinfo=UTC))) == made.since + timedelta(seconds=90)
    berlin = add(lake, "berlin", RECIPE, by="anna", cron="30 9 * * *", timezone="Europe/Berlin")
    summer = datetime(berlin.since.year + 1, 7, 1, tzinfo=UTC)
    assert next(dues(berlin, summer)).hour == 7
    assert next(dues(berlin, summer.replace(month=1))).hour == 8


def test_a_run_is_named_by_its_schedule_and_time_alone():
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert run_name("a", at) == run_name("a", at.replace(microsecond=0)) != run_name("b", at)
    assert run_name("a", at).startswith("run_20260102T030405_")


def test_writers_that_race_do_not_both_win(lake):
    from concurrent.futures import ThreadPoolExecutor

    add(lake, "x", RECIPE, by="anna", every_s=60)

    def attempt(number: int) -> str | None:
        try:
            return change(Lake.open(lake.uri), "x", now=True).asked_at.isoformat()
        except RequestError as error:
            assert error.code == "overtaken"
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [each for each in pool.map(attempt, range(8)) if each]
    rows = lake.scan("service/schedules").collect()
    assert sorted(row.isoformat() for row in rows["asked_at"].drop_nulls()) == sorted(won)
    assert rows["revision"].sort().to_list() == list(range(len(won) + 1))
