from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from api.cli.printing import show, table

ROWS = [{"name": "a" * 200, "value": 1 / 3, "none": None, "odd": "[bold] :smile:"}, {"name": "b", "value": 12345678}]


def test_in_a_pipe_a_row_is_a_line_however_long():
    head, first, second = table(ROWS).splitlines()
    assert head.split() == ["name", "value", "none", "odd"]
    assert first.split() == ["a" * 200, "0.333333", "[bold]", ":smile:"]
    assert second.split() == ["b", "12345678"]
    assert not any(line != line.rstrip() for line in (head, first, second))


def test_a_narrow_terminal_folds_and_loses_nothing(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    lines = table(ROWS).splitlines()
    assert len(lines) > 5
    assert sum(line.count("a") for line in lines[1:]) >= 200


def test_nothing_is_none_and_nested_values_are_json():
    assert table([]) == "none"
    assert table([{"spans": [{"start": 1}], "named": {"a": None}}]).splitlines()[1] == '[{"start": 1}]  {"a": null}'


def test_rows_of_unlike_keys_share_the_columns_of_all():
    head, first, second = table([{"name": "a", "count": 1}, {"name": "b", "place": "x"}]).splitlines()
    assert head.split() == ["name", "count", "place"]
    assert (first.split(), second.split()) == (["a", "1"], ["b", "x"])
    assert second.index("x") == head.index("place")


@pytest.mark.parametrize("as_json", [True, False])
def test_text_is_for_people_and_facts_for_programs(capsys, as_json):
    show({"episodes": 3, "text": "three episodes"}, as_json)
    out, _ = capsys.readouterr()
    assert (json.loads(out) == {"episodes": 3}) if as_json else (out == "three episodes\n")
    show({"episodes": 3}, as_json)
    assert json.loads(capsys.readouterr().out) == {"episodes": 3}
    show({"text": ""}, False)
    assert capsys.readouterr().out == ""


def test_what_a_source_calls_its_episodes_is_shown_and_not_obeyed(capsys):
    name = "demo\x1b]0;owned\x07\u202e\r"
    assert table([{"key": name + "\n"}]).splitlines()[1] == r"demo\x1b]0;owned\x07\u202e\r\n"
    show({"text": f"\x1b[1mkey\x1b[0m\n{name}\tä 日"}, False)
    assert capsys.readouterr().out == "\x1b[1mkey\x1b[0m\n" + r"demo\x1b]0;owned\x07\u202e\r" + "\tä 日\n"


def test_a_time_is_shown_to_the_second():
    assert table([{"at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)}]).splitlines()[1] == "2026-01-02 03:04:05"
