"""What a person sees while a flow runs: a bar on a terminal, lines in a log, nothing elsewhere. Always on stderr."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "logged", "printable", "silent", "terminal"]

_EVERY_S = 1.0  # a line of a log
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # controls, directions


def printable(text: str) -> str:
    """``text`` on one line, with what a terminal would obey written out: a source may name its episodes anything."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Progress:
    """Where flows report: ``stage`` opens a bar and yields the function that advances it; ``warn`` says one line."""

    def __init__(self, *, bars: bool, warnings: bool = True, lines: bool = False) -> None:
        self.bars = bars
        self.lines = lines
        self.warnings = warnings
        self.warned: list[str] = []

    @contextmanager
    def stage(
        self, title: str, total: int, done: Callable[[], tuple[int, int]] | None = None, unit: str = ""
    ) -> Iterator[Callable[[int], None]]:
        """A bar called ``title`` over ``total`` units, which may be named, with the time left.

        ``done``, asked a few times a second, says how many units and frames are done: the rate is shown then, and
        what it says at first is not counted into it. In a log it is a line a second, as in ``score: 5 of 12 episodes``.
        """
        if self.lines and total:
            with _told(title, total, done, unit) as forward:
                yield forward
            return
        if not self.bars or total == 0:
            yield lambda done: None
            return
        from flows.bars import Bars

        with Bars(title, total, done, unit) as bars:
            yield bars.forward

    @contextmanager
    def waiting(self, title: str) -> Iterator[None]:
        """A sign that something goes on whose end nobody can foretell."""
        if not self.bars:
            yield
            return
        from rich.console import Console
        from rich.text import Text

        console, line = Console(stderr=True), Text(title)
        line.truncate(max(1, console.width - 3), overflow="ellipsis")  # a spinner's text is wrapped whatever it asks
        with console.status(line):
            yield

    def say(self, line: str) -> None:
        """One line of what is about to happen."""
        if self.warnings:
            print(printable(line), file=sys.stderr)

    def warn(self, line: str) -> None:
        """One line that a person should read; kept for the report."""
        self.warned.append(line)
        if self.warnings:
            print(f"warning: {printable(line)}", file=sys.stderr)


@contextmanager
def _told(
    title: str, total: int, done: Callable[[], tuple[int, int]] | None, unit: str
) -> Iterator[Callable[[int], None]]:
    """Say how far a stage is: at its beginning, each second that it got on, and at its end."""
    count, said = 0, -1
    over = threading.Event()

    def forward(more: int) -> None:
        nonlocal count
        count += more

    def tell() -> None:
        nonlocal said
        here = done()[0] if done is not None else count
        if here != said:
            said = here
            print(f"{title}: {here} of {total}{f' {unit}' if unit else ''}", file=sys.stderr, flush=True)

    def watch() -> None:
        while not over.wait(_EVERY_S):
            tell()

    tell()
    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield forward
    finally:
        over.set()
        watcher.join()
        tell()


def silent() -> Progress:
    """Reports nothing, keeps the warnings."""
    return Progress(bars=False, warnings=False)


def logged() -> Progress:
    """Lines for a log that somebody watches, and warnings."""
    return Progress(bars=False, lines=True)


def terminal() -> Progress:
    """Bars where stderr is a terminal, warnings always."""
    return Progress(bars=sys.stderr.isatty())
