from __future__ import annotations

from flows.progress import Progress, silent, terminal


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


def test_silent_keeps_what_it_does_not_say(capsys):
    progress = silent()
    advance(progress)
    advance(Progress(bars=True), total=0)
    progress.warn("two episodes left out")
    assert capsys.readouterr() == ("", "")
    assert progress.warned == ["two episodes left out"]
