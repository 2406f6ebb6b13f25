from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from storage.lake import Lake
from storage.schedules import Schedule, add, change, dues, find, run_name, schedules

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


@pytest.mark.parametrize(
    ("cron", "zone", "start", "expected"),
    [
        # put forward, 02:00 to 03:00: what falls into the hour that is left out runs once, right after it
        ("30 2 * * *", "Europe/Berlin", "2031-03-29", ["2031-03-29T01:30", "2031-03-30T01:00", "2031-03-31T00:30"]),
        ("0 3 * * *", "America/New_York", "2031-03-08", ["2031-03-08T08:00", "2031-03-09T07:00", "2031-03-10T07:00"]),
        # put back, 03:00 to 02:00: a time that comes twice runs once; what runs every hour runs in both
        ("30 2 * * *", "Europe/Berlin", "2031-10-25", ["2031-10-25T00:30", "2031-10-26T00:30", "2031-10-27T01:30"]),
        ("0 * * * *", "Europe/Berlin", "2031-10-26T00:00",
         ["2031-10-26T00:00", "2031-10-26T01:00", "2031-10-26T02:00", "2031-10-26T03:00"]),
        ("*/20 * * * *", "Australia/Lord_Howe", "2031-04-05T14:41",  # by half an hour
         ["2031-04-05T15:10", "2031-04-05T15:30", "2031-04-05T15:50", "2031-04-05T16:10"]),
        ("0 0 29 2 *", "UTC", "2031-01-01", ["2032-02-29T00:00", "2036-02-29T00:00"]),
    ],
)  # fmt: skip
def test_clocks_that_are_put_forward_and_back(lake, cron, zone, start, expected):
    made = replace(add(lake, "x", RECIPE, by="anna", cron=cron, timezone=zone), since=datetime(2026, 1, 1, tzinfo=UTC))
    after = datetime.fromisoformat(start).replace(tzinfo=UTC) - timedelta(seconds=1)
    told = islice(dues(made, after), len(expected))
    assert [each.isoformat(timespec="minutes").removesuffix("+00:00") for each in told] == expected


@given(zone=st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
       cron=st.sampled_from(["30 2 * * *", "*/20 * * * *", "0 0,3 * * 1-5", "15 1-4 1 * *"]),
       hours=st.integers(0, 24 * 365))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_times_only_go_forward_and_are_the_same_from_wherever_they_are_told(zone, cron, hours):
    start = datetime(2031, 1, 1, tzinfo=UTC)
    made = Schedule("x", {}, cron, None, zone, "anna", False, "active", start, None, start, 0)
    told = list(islice(dues(made, start + timedelta(hours=hours)), 30))
    assert told == sorted(set(told))
    for at in (0, 7, 28):
        assert next(dues(made, told[at])) == told[at + 1]
        assert next(dues(made, told[at + 1] - timedelta(seconds=1))) == told[at + 1]
