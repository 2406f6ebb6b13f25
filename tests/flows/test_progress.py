from __future__ import annotations

import time

from flows.progress import Progress, logged, silent, terminal


def advance(progress: Progress, total: int = 3) -> None:
    with progress.stage("ingest reach", total) as step:
        for _ in range(total):
            step(1)


def test_a_bar_is_drawn_on_stderr_only(capsys):
    advance(Progress(bars=True))
    out, err = capsys.readouterr()
    assert out == ""
    assert "ingest reach" in err
    assert "3/3" in err


def test_elsewhere_than_on_a_terminal_only_warnings_are_said(capsys):
    progress = terminal()
    advance(progress)
    progress.warn("two episodes left out")
    assert capsys.readouterr() == ("", "warning: two episodes left out\n")
    assert progress.warned == ["two episodes left out"]


def test_in_a_log_a_stage_is_a_line_at_its_beginning_and_its_end_and_few_between(capsys):
    advance(logged(), total=5000)
    advance(logged(), total=0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) < 100
    assert (lines[0], lines[-1]) == ("ingest reach: 0 of 5000", "ingest reach: 5000 of 5000")
    with logged().stage("ingest", 9, lambda: (9, 100), "episodes"):
        pass
    assert capsys.readouterr().err == "ingest: 9 of 9 episodes\n"


def test_silent_keeps_what_it_does_not_say(capsys):
    progress = silent()
    advance(progress)
    advance(Progress(bars=True), total=0)
    progress.warn("two episodes left out")
    assert capsys.readouterr() == ("", "")
    assert progress.warned == ["two episodes left out"]


def test_what_is_asked_moves_the_bar_and_gives_a_rate(capsys):
    counts = iter([(4, 0), *[(4 + i, 500 * i) for i in range(1, 1000)]])
    last = (4, 0)

    def done() -> tuple[int, int]:
        nonlocal last
        last = next(counts) if last[0] < 20 else last
        return last

    with Progress(bars=True).stage("ingest reach", 20, done):
        while last[0] < 20:
            time.sleep(0.01)
    out, err = capsys.readouterr()
    assert out == ""
    assert "20/20" in err and "frames/s" in err


def test_a_line_stays_one_and_steers_no_terminal(capsys):
    progress = terminal()
    progress.warn("demo\n\x1b[31m\udcff is quarantined")
    assert capsys.readouterr().err == "warning: demo" + r"\n\x1b[31m\udcff is quarantined" + "\n"
    assert progress.warned == ["demo\n\x1b[31m\udcff is quarantined"]
